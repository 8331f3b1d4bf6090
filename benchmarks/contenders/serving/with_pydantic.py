"""FastAPI, pydantic and torch, as most people would write it."""

from __future__ import annotations

import os

import torch
from fastapi import FastAPI
from pydantic import BaseModel

from benchmarks.contenders.serving import network

app = FastAPI()
_network = network.load(os.environ["BENCH_TASK"])


class PredictIn(BaseModel):
    """Rows."""

    inputs: list[list[float]]


class PredictOut(BaseModel):
    """What was predicted of them."""

    preds: list[int]
    probs: list[list[float]]


@app.post("/predict")
def predict(body: PredictIn) -> PredictOut:
    with torch.inference_mode():
        probs = torch.softmax(_network(torch.tensor(body.inputs)), dim=1)
    return PredictOut(preds=probs.argmax(dim=1).tolist(), probs=probs.tolist())
