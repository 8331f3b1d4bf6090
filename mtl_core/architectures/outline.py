"""What the short form says of a task: its kind and how many classes or values it has, not its path."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, StringConstraints

from mtl_core.documented import Documented
from mtl_core.errors import SpecError
from mtl_core.kinds import KINDS
from mtl_core.scaling import TargetScale
from mtl_core.specs import NAME_PATTERN, CatalogueSpec

Size = Annotated[int, Field(strict=True, ge=1, le=65_536)]
"""How many numbers a layer answers for each example."""


class TaskOutline(Documented):
    """A task of a model with an architecture: the path that leads to its head is the architecture's."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    # Modules are named after their tasks, with a prefix, and a module's name has at most 128 characters.
    name: Annotated[str, StringConstraints(pattern=NAME_PATTERN, max_length=112), Field(examples=["income"])]
    """The task's name, to which datasets bind their labels."""
    kind: Annotated[CatalogueSpec, Field(examples=["binary"])]
    """What is to be told; it brings loss, output function and metrics."""
    labels: Annotated[int, Field(strict=True, ge=1, le=65_536)] | None = Field(default=None, examples=[5])
    """How many classes, labels or values there are; needed where the kind does not tell."""
    head: Annotated[list[Size], Field(max_length=8)] = Field(default=[], examples=[[16]])
    """Sizes of the hidden layers of the task's head, before the layer that answers; default: none."""
    loss: CatalogueSpec | None = Field(default=None, examples=["focal"])
    """A loss in place of the kind's."""
    output: CatalogueSpec | None = Field(default=None, examples=["sigmoid"])
    """An output function in place of the kind's."""
    metrics: Annotated[list[CatalogueSpec], Field(min_length=1, max_length=32)] | None = Field(
        default=None, examples=[["roc_auc"]]
    )
    """Metrics in place of the kind's."""
    target_scaling: Literal["standard"] | TargetScale | None = Field(default=None, examples=["standard"])
    """The scale on which values are learnt, in place of the kind's; null, where it is given, for none."""

    def n_outputs(self, pointer: str = "") -> int:
        """Return how many numbers the task's head answers for each example.

        Args:
            pointer: Where the outline stands, for errors.

        Raises:
            SpecError: If there is no such kind, or ``labels`` is missing or does not suit it.
        """
        kind = KINDS.build(self.kind, f"{pointer}/kind")
        try:
            return kind.n_outputs(self.labels)
        except ValueError as error:
            raise SpecError.at(f"{pointer}/labels", str(error)) from None

    def overrides(self) -> dict[str, Any]:
        """Return the parts of a task spec that the outline gives itself, not left to its kind."""
        names = ("loss", "output", "metrics")
        given = {name: value for name in names if (value := getattr(self, name)) is not None}
        if "target_scaling" in self.model_fields_set:
            given["target_scaling"] = self.target_scaling
        return given
