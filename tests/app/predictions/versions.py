"""A small version, loaded by the service's own loader."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from app.db.tables import Version
from app.predictions.loaded import LoadedVersion, Loader
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from mtl_core import MultitaskClassifier, module_weights
from mtl_core.building.budget import Limits
from mtl_core.building.tasks import build_tasks
from mtl_core.specs import TaskSpec

TRUNK: dict[str, Any] = {
    "type": "Sequential",
    "layers": [{"type": "Linear", "in_features": 3, "out_features": 8}],
}
EMBEDDING: dict[str, Any] = {
    "type": "Sequential",
    "layers": [{"type": "Embedding", "num_embeddings": 4, "embedding_dim": 8}],
}


def spec_of(name: str, field: str, trunk: dict[str, Any]) -> dict[str, Any]:
    """Return a task of a trunk and a head of two classes."""
    return {
        "name": name,
        "module_pool": {"trunk": trunk, f"head_{name}": {"type": "LazyLinear", "out_features": 2}},
        "op_sequence": [
            {"name": "trunk", "module_name": "trunk", "inputs": [["_input_", field]]},
            {"name": "head", "module_name": f"head_{name}", "inputs": ["trunk"]},
        ],
    }


def load_version(
    folder: Path,
    *names: str,
    field: str = "x",
    shape: list[int] | None = None,
    dtype: str = "float32",
    trunk: dict[str, Any] = TRUNK,
) -> LoadedVersion:
    """Return a version of a model ``m`` whose weights are drawn with a seed."""
    torch.manual_seed(0)
    specs = [spec_of(name, field, trunk) for name in names]
    for spec in specs:
        spec["module_pool"][f"head_{spec['name']}"] = {"type": "Linear", "in_features": 8, "out_features": 2}
    store = ArtifactStore(folder)
    model = MultitaskClassifier(build_tasks([TaskSpec.model_validate(spec) for spec in specs]), device=-1)
    stored = store.put_tensors(module_weights(model))
    fields = {field: {"shape": [3] if shape is None else shape, "dtype": dtype, "vocabulary": None}}
    version = Version(
        model="m", number=1, tasks=specs, fields=fields, sha256=stored.sha256, bytes=stored.bytes
    )
    return Loader(store, Limits(), SentenceEncoders({})).load(version)
