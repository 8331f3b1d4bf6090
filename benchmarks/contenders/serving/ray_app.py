"""Ray Serve with one replica."""

from __future__ import annotations

import os
import sys
from typing import Any

import ray
import torch
from ray import serve
from starlette.requests import Request

from benchmarks.contenders.serving import network


@serve.deployment(num_replicas=1, max_ongoing_requests=64)
class Network:
    def __init__(self) -> None:
        self.network = network.load(os.environ["BENCH_TASK"])

    async def __call__(self, request: Request) -> dict[str, Any]:
        rows = torch.tensor((await request.json())["inputs"])
        with torch.inference_mode():
            probs = torch.softmax(self.network(rows), dim=1)
        return {"preds": probs.argmax(dim=1).tolist(), "probs": probs.tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"port": int(sys.argv[1])})
    serve.run(Network.bind(), route_prefix="/predict", blocking=True)
