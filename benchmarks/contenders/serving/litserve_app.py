"""LitServe with one worker, with and without its batching."""

from __future__ import annotations

import os
import sys
from typing import Any

import litserve as ls
import torch

from benchmarks.contenders.serving import network


class Api(ls.LitAPI):
    """One worker, which has the network; a batch is the list of its requests' rows."""

    def setup(self, device: str) -> None:
        """Load the network."""
        self.network = network.load(os.environ["BENCH_TASK"])

    # LitServe makes of an annotation what it accepts.
    def decode_request(self, request):
        """Make a tensor of the rows."""
        return torch.tensor(request["inputs"])

    def predict(self, x: torch.Tensor | list[torch.Tensor]) -> Any:
        """Predict one request, or several at once."""
        rows = torch.cat(x) if isinstance(x, list) else x
        with torch.inference_mode():
            probs = torch.softmax(self.network(rows), dim=1)
        return probs.split([len(each) for each in x]) if isinstance(x, list) else probs

    def batch(self, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
        """Leave the requests apart: each may have many rows."""
        return inputs

    def unbatch(self, output: Any) -> Any:
        """Leave what has been split."""
        return output

    def encode_response(self, output: torch.Tensor) -> dict[str, Any]:
        """Make the answer of one request."""
        return {"preds": output.argmax(dim=1).tolist(), "probs": output.tolist()}


if __name__ == "__main__":
    batching = {"max_batch_size": 64, "batch_timeout": 0.002} if "--batching" in sys.argv else {}
    server = ls.LitServer(Api(**batching), accelerator="cpu", workers_per_device=1)
    server.run(port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning")
