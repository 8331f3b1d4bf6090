"""What a version carries beside its weights: how raw columns become fields, what classes are called, where
values lie.
"""

from __future__ import annotations

from pydantic import BaseModel

from app.storage.artifacts import ArtifactStore
from mtl_core.preprocessing import FittedField
from mtl_core.scaling import TargetScale


class Preprocessing(BaseModel):
    """Fitted on the train splits of the run that made it, and never again.

    Attributes:
        fields: How each field is made.
        class_names: Task → names of its classes in order; tasks whose labels are plain numbers are not there.
        target_scales: Task → where its values lie, for those that are learnt on that scale.
    """

    fields: dict[str, FittedField] = {}
    class_names: dict[str, list[bool | int | str]] = {}
    target_scales: dict[str, TargetScale] = {}


def store_preprocessing(store: ArtifactStore, preprocessing: Preprocessing) -> str:
    """Store a preprocessing and return its artifact's name."""
    return store.put(preprocessing.model_dump_json().encode())


def load_preprocessing(store: ArtifactStore, sha256: str | None) -> Preprocessing:
    """Load a preprocessing; None is that of versions made before there was any."""
    if sha256 is None:
        return Preprocessing()
    return Preprocessing.model_validate_json(store.path(sha256).read_bytes())
