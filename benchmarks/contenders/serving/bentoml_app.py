"""A BentoML service with one worker."""

from __future__ import annotations

import os
import sys

import bentoml
import torch

from benchmarks.contenders.serving import network


@bentoml.service(workers=1)
class Network:
    def __init__(self) -> None:
        self.network = network.load(os.environ["BENCH_TASK"])

    @bentoml.api
    def predict(self, inputs: list[list[float]]) -> dict[str, list]:  # type: ignore[type-arg]
        with torch.inference_mode():
            probs = torch.softmax(self.network(torch.tensor(inputs)), dim=1)
        return {"preds": probs.argmax(dim=1).tolist(), "probs": probs.tolist()}


if __name__ == "__main__":
    service = "benchmarks.contenders.serving.bentoml_app:Network"
    os.execvp(sys.executable, [sys.executable, "-m", "bentoml", "serve", service, "--port", sys.argv[1]])
