"""BentoML with one worker, its rows declared as an array, as its documentation has it."""

# Without ``from __future__ import annotations``: BentoML makes of annotations what it accepts.
import os
import sys
from typing import Any

import bentoml
import numpy as np
import torch

from benchmarks.contenders.serving import network


@bentoml.service(workers=1, logging={"access": {"enabled": False}}, metrics={"enabled": False})
class Predictor:
    """One worker, which has the network."""

    def __init__(self) -> None:
        self.network = network.load(os.environ["BENCH_TASK"])

    @bentoml.api
    def predict(self, inputs: np.ndarray) -> dict[str, Any]:
        """Predict rows."""
        rows = torch.from_numpy(inputs.astype(np.float32))
        with torch.inference_mode():
            probs = torch.softmax(self.network(rows), dim=1)
        return {"preds": probs.argmax(dim=1).tolist(), "probs": probs.tolist()}


if __name__ == "__main__":
    service = "benchmarks.contenders.serving.bentoml_app:Predictor"
    os.execv(sys.executable, [sys.executable, "-m", "bentoml", "serve", service, "--port", sys.argv[1]])
