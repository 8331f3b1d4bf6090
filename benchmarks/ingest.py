"""How fast a raw CSV file becomes tensors to train on, beside pandas and, where it is installed, Ludwig.

Run it with ``python benchmarks/ingest.py``. Every way reads the same gzipped file of numbers and categories, deals its
rows to splits, standardises numbers and encodes categories as the train split says, and ends with float32 tensors and
integer labels; they take turns in one run. Ours also writes the table that a dataset keeps, sums every column up, and
looks for what usually hurts. ``--ludwig PYTHON`` names an interpreter that has Ludwig (it needs packages of its own).
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from app.datasets.ingest import Source, ingest_source
from app.datasets.parts import read_part
from app.datasets.schemas import DatasetIn
from app.storage.artifacts import ArtifactStore
from app.uploads.options import Limits, Options
from app.uploads.sandbox import read_apart
from mtl_core.preprocessing import fit_field

NUMBERS, CATEGORIES, ROUNDS = 8, 32, 5
SHARES = {"train": 0.7, "valid": 0.15, "test": 0.15}
_LUDWIG = """
import json, logging, sys, time
logging.disable(logging.CRITICAL)
from ludwig.api import LudwigModel
path, numbers, categories, rounds = sys.argv[1], *map(int, sys.argv[2:])
features = [{"name": f"n{i}", "type": "number", "preprocessing": {"normalization": "zscore"}} for i in range(numbers)]
features += [{"name": f"c{i}", "type": "category"} for i in range(categories)]
config = {"input_features": features, "output_features": [{"name": "label", "type": "binary"}],
          "preprocessing": {"split": {"type": "random", "probabilities": [0.7, 0.15, 0.15]}}}
import pandas as pd
for _ in range(rounds):
    model = LudwigModel(config, logging_level=logging.CRITICAL)
    start = time.perf_counter()
    model.preprocess(dataset=pd.read_csv(path), skip_save_processed_input=True)
    print(json.dumps(time.perf_counter() - start), flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--ludwig", type=Path, help="a Python interpreter that has ludwig")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "people.csv.gz"
        _write(path, arguments.rows)
        print(
            f"{arguments.rows:,} rows, {NUMBERS} numbers, {CATEGORIES} categories, {path.stat().st_size:,} bytes"
        )
        ways: dict[str, Callable[[], tuple[torch.Tensor, torch.Tensor]]] = {
            "taskloom": lambda: _ours(path, folder),
            "pandas": lambda: _with_pandas(path),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(ROUNDS):
            for way, prepare in ways.items():
                start = time.perf_counter()
                X, y = prepare()
                seconds[way].append(time.perf_counter() - start)
                assert X.dtype == torch.float32
                assert abs(len(y) - 0.7 * arguments.rows) <= 1
        if arguments.ludwig:
            seconds["ludwig"] = _with_ludwig(arguments.ludwig, path)
        medians = {way: statistics.median(values) for way, values in seconds.items()}
        for way, median in medians.items():
            print(f"{way}: {median:.2f} s ({min(seconds[way]):.2f} to {max(seconds[way]):.2f})")
        for way, median in medians.items():
            if way != "taskloom":
                print(f"ratio {way} / taskloom: {median / medians['taskloom']:.2f}")


def _write(path: Path, rows: int) -> None:
    rng = np.random.default_rng(0)
    table = {f"n{i}": rng.normal(i, 1 + i, rows).round(3) for i in range(NUMBERS)}
    for i in range(CATEGORIES):
        values = np.array([f"value {k} of column {i}" for k in range(2 + i)])
        table[f"c{i}"] = values[rng.integers(0, 2 + i, rows)]
    table["label"] = (table["n0"] > 0).astype(int)
    frame = pd.DataFrame(table)
    for column in ("n1", "c1"):
        frame.loc[rng.random(rows) < 0.05, column] = None
    with gzip.open(path, "wt", compresslevel=1) as file:
        frame.to_csv(file, index=False)


def _ours(path: Path, folder: Path) -> tuple[torch.Tensor, torch.Tensor]:
    store = ArtifactStore(folder / "artifacts")
    with store.scratch() as scratch:
        limits = Limits(max_columns=1000, max_bytes=2**33, memory_bytes=2**31, seconds=600)
        found = read_apart(path, scratch / "table", scratch, Options(format="csv"), limits)
        table = store.put_file(scratch / "table").sha256
    body = DatasetIn.model_validate(
        {
            "name": "people",
            "source": {"upload": "upl_people"},
            "fields": {"person": {"columns": "*"}},
            "labels": {"task": {"column": "label"}},
            "splits": SHARES,
        }
    )
    source = Source(table, found.columns, found.rows, path.name, "/source/upload", None)
    train, *_ = ingest_source(store, body, [source], None).splits
    field = fit_field(train.meaning.fields["person"], train.summary.fields["person"])
    label = train.labels["task"]
    X = np.empty((train.part.rows, *field.shape), dtype=np.float32)
    y = np.empty(train.part.rows, dtype=np.int64)
    filled = 0
    for batch in read_part(store, train.part, [*field.column_names, label.column]):
        rows = slice(filled, filled + batch.num_rows)
        X[rows] = field.encode({name: batch.column(name) for name in field.column_names})
        y[rows] = label.encode(batch.column(label.column))
        filled += batch.num_rows
    return torch.from_numpy(X), torch.from_numpy(y)


def _with_pandas(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    frame = pd.read_csv(path)
    order = np.random.default_rng(0).permutation(len(frame))
    train = frame.iloc[order[: round(SHARES["train"] * len(frame))]]
    numbers = train[[f"n{i}" for i in range(NUMBERS)]]
    numbers = ((numbers - numbers.mean()) / numbers.std()).fillna(0.0)
    categories = pd.get_dummies(train[[f"c{i}" for i in range(CATEGORIES)]], dummy_na=True, dtype=np.float32)
    X = np.concatenate([numbers.to_numpy(np.float32), categories.to_numpy()], axis=1)
    return torch.from_numpy(X), torch.from_numpy(train["label"].to_numpy())


def _with_ludwig(python: Path, path: Path) -> list[float]:
    command = [str(python), "-c", _LUDWIG, str(path), str(NUMBERS), str(CATEGORIES), str(ROUNDS)]
    done = subprocess.run(command, cwd=path.parent, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"Ludwig failed: {done.stderr[-2000:]}")
    return [float(json.loads(line)) for line in done.stdout.splitlines() if line[:1].isdigit()]


if __name__ == "__main__":
    main()
