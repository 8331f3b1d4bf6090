"""The floor: a FastAPI route that answers the same whatever it is asked."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI

app = FastAPI()
_ANSWER: dict[str, Any] = {"preds": [3], "probs": [[0.1] * 10]}


@app.post("/predict")
async def predict() -> dict[str, Any]:
    return _ANSWER
