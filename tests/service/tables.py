"""A small table of people with two things to predict, as a file; and tasks that read it."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.service.client import Api, unique

COLUMNS = ["age", "job", "smokes", "joined", "note", "weight", "part", "sick", "mood"]
JOBS = ["nurse", "pilot", "cook"]


def people(n: int, seed: int = 0) -> list[dict[str, Any]]:
    """Return ``n`` people: ``sick`` follows from age and smoking, ``mood`` from the job; each is missing at times."""
    rng = np.random.default_rng(seed)
    rows: list[dict[str, Any]] = []
    for i in range(n):
        age, job, smokes = int(rng.integers(18, 90)), JOBS[rng.integers(3)], bool(rng.integers(2))
        rows.append(
            {
                "age": age if rng.random() > 0.1 else None,
                "job": job if rng.random() > 0.1 else None,
                "smokes": smokes,
                "joined": f"20{rng.integers(10, 24)}-0{rng.integers(1, 9)}-{rng.integers(10, 28)}",
                "note": f"likes {job} work and is {'often' if smokes else 'never'} tired, number {i}",
                "weight": round(float(rng.uniform(0.5, 2.0)), 2),
                "part": "test" if i % 4 == 0 else "train",
                "sick": ("yes" if age / 30 + 2 * smokes > 2.8 else "no") if rng.random() > 0.2 else None,
                "mood": {"nurse": "good", "pilot": "bad", "cook": "good"}[job]
                if rng.random() > 0.2
                else None,
            }
        )
    return rows


def as_csv(rows: list[dict[str, Any]]) -> bytes:
    """Return rows as a CSV file; None is an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


@dataclass
class People:
    """Uploads, a dataset, tasks and a model of names that no other test uses."""

    api: Api
    suffix: str = field(default_factory=lambda: unique("p"))

    @property
    def dataset(self) -> str:
        """The dataset's name."""
        return f"people-{self.suffix}"

    @property
    def model(self) -> str:
        """The model's name."""
        return f"people-model-{self.suffix}"

    def task(self, name: str) -> str:
        """Return a task's name."""
        return f"{name}-{self.suffix}"

    def upload(
        self, content: bytes, status: int | tuple[int, ...] = (200, 201), **how: Any
    ) -> dict[str, Any]:
        """Upload a file."""
        return self.api.call("POST", "/v1/uploads", status, content=content, params=how).json()

    def body(self, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
        """Upload rows and return a request for a dataset of them."""
        return {
            "name": self.dataset,
            "source": {"upload": self.upload(as_csv(rows), filename="people.csv")["id"]},
            "fields": {"person": {"columns": ["age", "job", "smokes", "joined"]}},
            "labels": {self.task("sick"): {"column": "sick"}, self.task("mood"): "mood"},
            "splits": {"train": 0.8, "test": 0.2},
        } | changes

    def register(self, rows: list[dict[str, Any]], status: int = 201, **changes: Any) -> dict[str, Any]:
        """Register the dataset."""
        return self.api.post("/v1/datasets", self.body(rows, **changes), status)

    def spec(
        self, name: str, field_name: str = "person", n_classes: int = 2, **changes: Any
    ) -> dict[str, Any]:
        """Return a task over one field of numbers, whatever its width."""
        return {
            "name": self.task(name),
            "module_pool": {
                "trunk": {
                    "type": "Sequential",
                    "layers": [{"type": "LazyLinear", "out_features": 16}, {"type": "ReLU"}],
                },
                f"{name}_head": {"type": "Linear", "in_features": 16, "out_features": n_classes},
            },
            "op_sequence": [
                {"module_name": "trunk", "inputs": [["_input_", field_name]]},
                {"module_name": f"{name}_head", "inputs": ["trunk"]},
            ],
        } | changes

    def make_model(self, *names: str, **changes: Any) -> None:
        """Register tasks and a model of them."""
        for name in names:
            self.api.post("/v1/tasks", self.spec(name, **changes))
        self.api.post("/v1/models", {"name": self.model, "tasks": [self.task(name) for name in names]})
