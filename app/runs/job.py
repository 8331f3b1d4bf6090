"""What a worker is to do: tasks, splits and weights, all of them pinned."""

from __future__ import annotations

from pydantic import BaseModel

from app.datasets.parts import Part
from app.runs.initial import WeightsRef
from app.runs.slices import scored_labels
from mtl_core.preprocessing import FittedLabel
from mtl_core.slicing import slice_remap
from mtl_core.specs import DType, TaskSpec


class LabelRef(BaseModel):
    """A split's labels for one task: how they become numbers, and what those look like."""

    codec: FittedLabel
    dtype: DType
    shape: list[int]


class SplitRef(BaseModel):
    """A split, pinned by the checksums of its data."""

    dataset: str
    version: int
    split: str
    sha256: str
    rows: int
    tasks: list[str]
    """Its label sets, each for the task of its name unless the job says otherwise."""
    labels: dict[str, LabelRef]
    """What they look like."""
    fields: list[str]
    """Fields that these tasks read."""
    weights: str | None
    """Column of the examples' weights."""
    slice_columns: dict[str, str] = {}
    """Field that the tasks' slices name → its column."""
    parts: list[Part]


class RowsRef(BaseModel):
    """Rows to be predicted, pinned by the checksum of their data: a dataset's split, or a whole upload."""

    dataset: str | None = None
    version: int | None = None
    split: str | None = None
    upload: str | None = None
    sha256: str
    rows: int
    parts: list[Part]

    def named(self, row: int | None = None) -> str:
        """Return what to call them, or one of them, in a message."""
        where = (
            f"upload '{self.upload}'" if self.upload else f"split '{self.split}' of dataset '{self.dataset}'"
        )
        return where if row is None else f"row {row:,} of {where}"


class FieldRef(BaseModel):
    """Shape of one example of a field, and the dtype in which the tasks read it."""

    shape: list[int] | None
    """null where no dataset of the run has the field, and no layer tells."""
    dtype: DType
    vocabulary: int | None = None
    """How many indices there are; null where the field holds no indices."""


class Job(BaseModel):
    """All that a worker needs to know of a run: what is registered later changes nothing of it."""

    tasks: list[TaskSpec] = []
    """With every size that comes with the data filled in."""
    splits: list[SplitRef] = []
    rows: list[RowsRef] = []
    """What is to be predicted."""
    fields: dict[str, FieldRef] = {}
    preprocessing: str
    """Artifact of the run's preprocessing."""
    seed: int | None = None
    """Of the training's random numbers, drawn where the client gave none: every attempt uses the same."""
    init_from: int | None = None
    """Version to start from."""
    weights: list[WeightsRef] = []
    """Where modules take their weights from; all others start anew. Of a run that trains nothing, the version's."""
    remap_labels: dict[str, str] = {}
    """Label set → the task along whose path it is scored, where that is not the task of its name."""
    frozen: list[str] = []
    """Modules that stay as they are because only the new ones are to be trained."""

    @property
    def artifacts(self) -> list[str]:
        """The artifacts that must stay as long as the run is not over."""
        return [
            self.preprocessing,
            *(ref.sha256 for ref in self.weights),
            *(name for ref in [*self.splits, *self.rows] for part in ref.parts for name in part.artifacts),
        ]

    def logged_keys(self, train_split: str, valid_split: str) -> set[str]:
        """Return the keys of all that a training logs."""
        scored_only = slice_remap(self.tasks)
        metrics = {label: names for spec in self.tasks for label, names in scored_labels(spec).items()}
        keys = {f"model/all/{train_split}/{what}" for what in ("loss", "lr")}
        for ref in self.splits:
            labels = [label for spec in self.tasks if spec.name in ref.tasks for label in scored_labels(spec)]
            if ref.split == train_split:
                keys |= {
                    f"{label}/{ref.dataset}/{train_split}/loss"
                    for label in labels
                    if label not in scored_only
                }
            if ref.split == valid_split:
                keys.add(f"model/all/{valid_split}/loss")
                keys |= {
                    f"{label}/{ref.dataset}/{valid_split}/{metric}"
                    for label in labels
                    for metric in (*metrics[label], "loss")
                }
        return keys
