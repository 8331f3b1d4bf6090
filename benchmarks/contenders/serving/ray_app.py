"""Ray Serve with one replica, in the form that its documentation gives for the least overhead: no FastAPI before it."""

from __future__ import annotations

import os
import signal
import sys
import threading
from typing import Any

import numpy as np
import ray
import torch
from ray import serve
from starlette.requests import Request

from benchmarks.contenders.serving import network


@serve.deployment(num_replicas=1, max_ongoing_requests=100, ray_actor_options={"num_cpus": 1})
class Predictor:
    """The one replica."""

    def __init__(self) -> None:
        self.network = network.load(os.environ["BENCH_TASK"])

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Predict the rows of a request."""
        rows = np.array((await request.json())["inputs"], dtype=np.float32)
        with torch.inference_mode():
            probs = torch.softmax(self.network(torch.from_numpy(rows)), dim=1)
        return {"preds": probs.argmax(dim=1).tolist(), "probs": probs.tolist()}


if __name__ == "__main__":
    port = int(sys.argv[1])
    ray.init(num_cpus=1, include_dashboard=False, logging_level="warning", log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port}, logging_config={"enable_access_log": False})
    serve.run(Predictor.bind(), route_prefix="/predict")
    stopped = threading.Event()
    # Ray's own handler, which it has set by now, aborts the process.
    signal.signal(signal.SIGTERM, lambda _number, _frame: stopped.set())
    stopped.wait()
    serve.shutdown()
    ray.shutdown()
