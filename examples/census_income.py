"""Two tasks of one raw table: a census file as it comes is uploaded, learnt from, and asked about a person.

Start a server with ``taskloom serve``, then: python examples/census_income.py census-income.csv.gz

The file is the test part of Census-Income (KDD) of the UCI Machine Learning Repository (US Census Bureau, CC BY 4.0),
gzipped: https://archive.ics.uci.edu/dataset/117/census+income+kdd
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import httpx

# The file has no header.
COLUMNS = (  # noqa: SIM905 Forty-two names read better as a text.
    "age class_worker det_ind_code det_occ_code education wage_per_hour hs_college marital_stat major_ind_code "
    "major_occ_code race hisp_origin sex union_member unemp_reason full_or_part_emp capital_gains capital_losses "
    "stock_dividends tax_filer_stat region_prev_res state_prev_res det_hh_fam_stat det_hh_summ instance_weight "
    "mig_chg_msa mig_chg_reg mig_move_reg mig_same mig_prev_sunbelt num_emp fam_under_18 country_father "
    "country_mother country_self citizenship own_or_self vet_question vet_benefits weeks_worked year income_50k"
).split()
CODES = ("det_ind_code", "det_occ_code", "own_or_self", "vet_benefits", "year")

DATASET: dict[str, Any] = {
    "name": "census",
    # Everything that is neither label nor weight is an input; numbers that are codes are said to be so.
    "fields": {
        "person": {
            "columns": "*",
            "exclude": ["instance_weight"],
            "types": dict.fromkeys(CODES, "categorical"),
        }
    },
    "labels": {
        "income": {"column": "income_50k"},
        "never_married": {"column": "marital_stat", "positive": "Never married"},
    },
    "missing": ["?"],
    "splits": {"train": 0.7, "valid": 0.15, "test": 0.15},
    "seed": 1,
}
TRAINING: dict[str, Any] = {
    "datasets": ["census"],
    "trainer": {"n_epochs": 4, "lr": 0.001, "l2": 0.0001, "batch_size": 256, "seed": 1},
}


def task(name: str) -> dict[str, Any]:
    """Return a task: the trunk that both share, sized by the data, and a head of its own."""
    trunk = [
        {"type": "LazyLinear", "out_features": 128},
        {"type": "ReLU"},
        {"type": "Dropout", "p": 0.2},
        {"type": "Linear", "in_features": 128, "out_features": 64},
        {"type": "ReLU"},
    ]
    return {
        "name": name,
        "module_pool": {
            "trunk": {"type": "Sequential", "layers": trunk},
            f"{name}_head": {"type": "Linear", "in_features": 64, "out_features": 2},
        },
        "op_sequence": [
            {"module_name": "trunk", "inputs": [["_input_", "person"]]},
            {"module_name": f"{name}_head", "inputs": ["trunk"]},
        ],
        "metrics": ["accuracy", "roc_auc"],
    }


class Service:
    """The service at an address."""

    def __init__(self, url: str) -> None:
        self._http = httpx.Client(base_url=f"{url}/v1", timeout=120)

    def get(self, path: str) -> Any:
        """Return what a GET answers."""
        return self._answer(self._http.get(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        """Return what a POST of JSON answers."""
        return self._answer(self._http.post(path, json=body))

    def upload(self, path: Path) -> Any:
        """Stream a file to the service, as it is."""
        with path.open("rb") as file:
            how = {"filename": path.name, "columns": COLUMNS}
            return self._answer(self._http.post("/uploads", params=how, content=file))

    def finished(self, run: dict[str, Any]) -> dict[str, Any]:
        """Wait until a run is over."""
        while run["status"] in ("queued", "running"):
            time.sleep(0.2)
            run = self.get(f"/runs/{run['id']}")
        if run["status"] != "succeeded":
            sys.exit(f"the run {run['status']}: {run['error']}")
        return run

    def _answer(self, response: httpx.Response) -> Any:
        if response.is_error:
            sys.exit(f"{response.request.method} {response.request.url.path}: {response.text}")
        return response.json()


def main(file: Path, url: str) -> dict[str, float]:
    """Upload, train and predict.

    Returns:
        Score by ``task/dataset/split/metric``.
    """
    started = time.perf_counter()
    service = Service(url)
    upload = service.upload(file)
    print(f"{upload['rows']:,} rows of {len(upload['columns'])} columns, read as {upload['format']}")
    dataset = service.post("/datasets", DATASET | {"source": {"upload": upload["id"]}})
    for split in dataset["splits"]:
        counts = {name: label["counts"] for name, label in split["labels"].items()}
        print(
            f"{split['split']}: {split['rows']:,} rows, person {split['fields']['person']['shape']}, labels {counts}"
        )
    for warning in dataset["warnings"]:
        print(f"warning: {warning}")

    for name in DATASET["labels"]:
        service.post("/tasks", task(name))
    service.post("/models", {"name": "census", "tasks": list(DATASET["labels"])})
    run = service.finished(service.post("/models/census/runs", TRAINING))
    scores = service.get(f"/models/census/versions/{run['model_version']}/scores")
    for key, value in scores.items():
        print(f"{key:45} {value:.4f}")

    person = service.get("/datasets/census/test/rows?limit=1")["X_dict"]
    record = {column: values[0] for column, values in person.items()}
    answer = service.post("/models/census/predict", {"records": [record]})
    for name, predicted in answer["predictions"].items():
        named = dict(zip(map(str, predicted["class_names"]), predicted["probs"][0], strict=True))
        print(f"{name}: {predicted['classes'][0]} of {named}")
    print(f"{time.perf_counter() - started:.1f} s in all")
    return scores


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    arguments = parser.parse_args()
    main(arguments.file, arguments.url)
