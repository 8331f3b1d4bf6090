"""How a model is served: what is computed together, what may wait, and what is logged."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from app.wire import In


class Serving(In):
    """How a model's predictions are computed."""

    max_batch_rows: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 256
    """Rows of several requests that one forward pass may answer; 1 computes every request by itself."""
    max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 0
    """How long a request may wait for others, where requests have been coming together; one that comes alone never
    waits. 0: only what came together is computed together."""
    max_queue: Annotated[int, Field(strict=True, ge=1, le=65_536)] = 1024
    """Requests that may wait for a version; more are answered 503."""
    pinned: Annotated[bool, Field(strict=True)] = False
    """Whether each server loads the default version when it starts and keeps it, however little it is used."""
    log_share: Annotated[float, Field(strict=True, ge=0, le=1)] = 0
    """Share of the predictions that are written to the request log, with their inputs and answers. 0: none."""
