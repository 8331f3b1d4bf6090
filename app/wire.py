"""What all shapes that travel over HTTP have in common."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict

from mtl_core.documented import Documented


class In(Documented):
    """What a client sends: what is not known is refused."""

    model_config = ConfigDict(extra="forbid")


class Out(Documented):
    """What the service answers."""

    model_config = ConfigDict(from_attributes=True)


def shown_as(*examples: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema addition that shows examples in the API's documentation."""
    return {"examples": list(examples)}
