"""What all shapes that travel over HTTP have in common."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class In(BaseModel):
    """What a client sends: what is not known is refused."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)


class Out(BaseModel):
    """What the service answers."""

    model_config = ConfigDict(use_attribute_docstrings=True, from_attributes=True)


def shown_as(*examples: dict[str, Any]) -> dict[str, Any]:
    """Return the JSON Schema addition that shows examples in the API's documentation."""
    return {"examples": list(examples)}
