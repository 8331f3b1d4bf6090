"""What a network reads is the same whether rows come from memory, from mapped files, or one at a time by a request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.datasets import service as datasets
from app.datasets.ingest import Ingested, Source, ingest_source
from app.datasets.schemas import DatasetIn
from app.db.session import Database
from app.problems import Invalid
from app.runs.job import Job
from app.runs.planning import plan_job
from app.runs.preprocessing import Preprocessing, load_preprocessing
from app.storage.artifacts import ArtifactStore
from app.storage.encoders import SentenceEncoders
from app.storage.tables import write_table
from app.worker.loading import SplitLoader
from mtl_core import DictDataset
from mtl_core.building.tasks import Limits
from mtl_core.preprocessing import columns_from_records
from mtl_core.specs import TaskSpec
from mtl_core.task import WEIGHTS

FIELDS: dict[str, Any] = {
    "block": {"columns": ["age", "job", "when", "flag"]},
    "codes": {"columns": ["job", "flag"], "type": "categorical", "encode": "index"},
    "words": {"columns": [{"name": "note", "type": "text", "max_length": 4, "min_count": 1}]},
    "image": {"tensor": "image"},
}
ENCODERS = SentenceEncoders({})
TYPES = {
    "age": "float64",
    "job": "string",
    "when": "date",
    "flag": "bool",
    "note": "string",
    "image": "float32",
}
TASK: dict[str, Any] = {
    "name": "t",
    "module_pool": {
        "embed": {
            "type": "Sequential",
            "layers": [{"type": "LazyEmbedding", "embedding_dim": 2}, {"type": "Flatten"}],
        },
        "read": {
            "type": "Sequential",
            "layers": [{"type": "LazyEmbedding", "embedding_dim": 2}, {"type": "Flatten"}],
        },
        "flat": {"type": "Flatten"},
        "join": {"type": "Concat"},
        "head": {"type": "LazyLinear", "out_features": 2},
    },
    "op_sequence": [
        {"module_name": "embed", "inputs": [["_input_", "codes"]]},
        {"module_name": "read", "inputs": [["_input_", "words"]]},
        {"module_name": "flat", "inputs": [["_input_", "image"]]},
        {"module_name": "join", "inputs": [["_input_", "block"], "embed", "read", "flat"]},
        {"module_name": "head", "inputs": ["join"]},
    ],
}

ROWS = st.fixed_dictionaries(
    {
        "age": st.none() | st.floats(-1e6, 1e6),
        "job": st.none() | st.sampled_from(["nurse", " pilot ", "cook", "6", "?"]),
        "when": st.none() | st.dates().map(str),
        "flag": st.none() | st.booleans(),
        "note": st.none() | st.text(st.sampled_from("ab é"), max_size=9),
        "image": st.lists(st.floats(-9, 9, width=32), min_size=4, max_size=4).map(lambda x: [x[:2], x[2:]]),
        "w": st.floats(0, 5),
        "y": st.none() | st.sampled_from(["no", "yes"]),
    }
)


def table_of(rows: list[dict[str, Any]]) -> pa.Table:
    columns: dict[str, Any] = {name: [row[name] for row in rows] for name in rows[0]}
    numbers = pa.array(np.array(columns["image"], dtype=np.float32).reshape(-1))
    images = pa.FixedSizeListArray.from_arrays(numbers, 4)
    columns["image"] = pa.ExtensionArray.from_storage(pa.fixed_shape_tensor(pa.float32(), [2, 2]), images)
    columns["when"] = pa.array(columns["when"], pa.string()).cast(pa.date32())
    kinds = {
        "age": pa.float64(),
        "job": pa.string(),
        "flag": pa.bool_(),
        "note": pa.string(),
        "w": pa.float64(),
    }
    kinds["y"] = pa.string()
    return pa.table({n: pa.array(v, kinds[n]) if n in kinds else v for n, v in columns.items()})


def ingest(store: ArtifactStore, rows: list[dict[str, Any]], **changes: Any) -> Ingested:
    """Make splits of rows: the even ones are the train split."""
    whole = table_of(rows)
    whole = whole.append_column("part", pa.array(["test" if i % 2 else "train" for i in range(len(rows))]))
    with store.scratch() as folder:
        write_table(folder / "t", whole.schema, whole.to_batches(max_chunksize=7))
        table = store.put_file(folder / "t").sha256
    described = [
        {
            "name": name,
            "dtype": TYPES.get(name, "string"),
            "shape": [2, 2] if name == "image" else [],
            "distinct": 3,
        }
        for name in whole.column_names
    ]
    body = {
        "name": "d",
        "source": {"upload": "u"},
        "fields": FIELDS,
        "labels": {"t": {"column": "y", "classes": ["no", "yes"]}},
        "missing": ["?"],
    }
    body |= {"splits": {"by_column": "part"}, "weights": {"column": "w"}} | changes
    source = Source(table, described, len(rows), "rows.csv", "/source/upload", None)
    return ingest_source(store, DatasetIn.model_validate(body), [source], None)


def planned(db: Database, store: ArtifactStore, ingested: Ingested) -> tuple[Job, Preprocessing]:
    with db.write() as session:
        datasets.add(session, store, ENCODERS, "d", ingested)
        spec = TaskSpec.model_validate(TASK)
        job = plan_job(session, store, ENCODERS, [spec], ["d"], Limits(), Preprocessing(), "train")
        datasets.remove(session, "d")
    return job, load_preprocessing(store, job.preprocessing)


def assert_equal(one: DictDataset, other: DictDataset) -> None:
    for these, those in ((one.X_dict, other.X_dict), (one.Y_dict, other.Y_dict)):
        assert these.keys() == those.keys()
        for name in these:
            assert these[name].dtype == those[name].dtype
            assert torch.equal(these[name], those[name]), name


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, min_size=4, max_size=25))
def test_training_and_prediction_encode_alike(
    db: Database, store: ArtifactStore, tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    job, preprocessing = planned(db, store, ingest(store, rows))
    in_memory = SplitLoader(store, ENCODERS, job, preprocessing, Path("unused"), memory_bytes=2**30)
    mapped = SplitLoader(store, ENCODERS, job, preprocessing, tmp_path_factory.mktemp("maps"), memory_bytes=0)
    assert (in_memory.maps, mapped.maps) == (False, True)
    for number, ref in enumerate(job.splits):
        mine = [row for i, row in enumerate(rows) if i % 2 == number]
        loaded = in_memory.load(ref)
        assert_equal(loaded, mapped.load(ref))
        assert loaded.X_dict[WEIGHTS].tolist() == [pytest.approx(row["w"]) for row in mine]
        assert loaded.Y_dict["t"].tolist() == [{None: -1, "no": 0, "yes": 1}[row["y"]] for row in mine]
        # As a client sends them, each alone.
        for i, row in enumerate(mine):
            record = json.loads(json.dumps({name: row[name] for name in TYPES}))
            raw = columns_from_records(preprocessing.fields, [record])
            for name, field in preprocessing.fields.items():
                encoded = torch.from_numpy(field.encode(raw))[0].to(loaded.X_dict[name].dtype)
                assert torch.equal(encoded, loaded.X_dict[name][i]), name


def test_another_test_split_changes_nothing_of_what_was_fitted(db: Database, store: ArtifactStore) -> None:
    rng = np.random.default_rng(0)

    def row(age: float) -> dict[str, Any]:
        image = rng.normal(size=(2, 2)).tolist()
        common = {"job": "cook", "when": "2024-05-01", "flag": True, "note": "a b", "image": image}
        return common | {"age": age, "w": 1.0, "y": "yes" if age % 2 else "no"}

    train = [row(age) for age in range(10)]
    fits = []
    for ages in (range(100, 110), range(-5000, -4990)):
        test = [row(age) | {"job": f"job {age}", "note": f"word{age}"} for age in ages]
        rows = [r for pair in zip(train, test, strict=True) for r in pair]
        fits.append(planned(db, store, ingest(store, rows))[1].fields)
    assert fits[0] == fits[1]


@pytest.mark.parametrize("weight", [-1.0, float("nan"), None])
def test_a_weight_that_is_none_is_refused_with_its_row(store: ArtifactStore, weight: float | None) -> None:
    rows = [
        {
            "age": 1.0,
            "job": "a",
            "when": None,
            "flag": None,
            "note": None,
            "image": [[0, 0], [0, 0]],
            "w": 1.0,
            "y": "yes",
        }
        for _ in range(20)
    ]
    rows[13]["w"] = weight
    with pytest.raises(Invalid, match="row 13: a weight is a number of at least 0") as refused:
        ingest(store, rows)
    assert refused.value.errors[0]["pointer"] == "/weights"
