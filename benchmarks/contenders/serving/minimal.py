"""The least Python that does it: Starlette, orjson, numpy and torch, one request at a time."""

from __future__ import annotations

import os

import numpy as np
import orjson
import torch
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from benchmarks.contenders.serving import network

_network = network.load(os.environ["BENCH_TASK"])


async def predict(request: Request) -> Response:
    rows = np.array(orjson.loads(await request.body())["inputs"], dtype=np.float32)
    with torch.inference_mode():
        probs = torch.softmax(_network(torch.from_numpy(rows)), dim=1)
        preds = probs.argmax(dim=1)
    content = orjson.dumps(
        {"preds": preds.numpy(), "probs": probs.numpy()}, option=orjson.OPT_SERIALIZE_NUMPY
    )
    return Response(content, media_type="application/json")


app = Starlette(routes=[Route("/predict", predict, methods=["POST"])])
