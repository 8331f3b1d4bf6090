"""What all architectures have in common: the fields they read, what stands between layers, how a path is begun."""

from __future__ import annotations

from abc import abstractmethod
from typing import Annotated, ClassVar

from pydantic import ConfigDict, Field, field_validator

from mtl_core.architectures.outline import Size
from mtl_core.architectures.path import Activation, Norm, Path, Signal, Style
from mtl_core.documented import Documented

Layers = Annotated[list[Size], Field(min_length=1, max_length=16, examples=[[64, 32]])]
"""Sizes of linear layers, first to last."""

FieldName = Annotated[str, Field(strict=True, min_length=1, max_length=128)]
"""A field of the data."""


class ArchitectureBase(Documented):
    """An architecture with its sizes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    only_kind: ClassVar[str | None] = None
    """The one kind of task that the architecture is for; None: it is for all."""

    inputs: Annotated[list[FieldName], Field(min_length=1, max_length=64)] = Field(
        default=["features"], examples=[["x"]]
    )
    """Fields of numbers, `[D]` for an example; several are put side by side."""
    activation: Activation = "relu"
    """What follows each linear layer but the last of a head."""
    dropout: Annotated[float, Field(strict=True, ge=0, lt=1)] = 0.0
    """Probability with which a number is dropped after an activation."""
    norm: Norm | None = Field(default=None, examples=["layer"])
    """Norm between a linear layer and its activation: over the batch, or over the layer's numbers."""

    @field_validator("inputs")
    @classmethod
    def _each_field_once(cls, inputs: list[str]) -> list[str]:
        if twice := sorted({name for name in inputs if inputs.count(name) > 1}):
            raise ValueError(f"field '{twice[0]}' is listed twice")
        return inputs

    @property
    def style(self) -> Style:
        """What stands between linear layers."""
        return Style(self.activation, self.norm, self.dropout)

    @abstractmethod
    def representation(self, path: Path) -> Signal:
        """Lay out a task's path up to its head, and return what the head reads.

        Args:
            path: The task's path, which has nothing yet.
        """

    def lay_out(self, path: Path) -> None:
        """Lay out a task's whole path.

        Args:
            path: The task's path, which has nothing yet.
        """
        path.add_head(path.task, self.representation(path))
