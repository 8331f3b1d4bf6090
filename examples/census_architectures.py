"""Three tasks of one census file: what sharing is worth, and in which architecture.

Start a server with ``taskloom serve``, then: python -m examples.census_architectures census-income.csv.gz

The file is that of ``census_income.py``; the tasks are whether an income is above 50,000 dollars, whether a person
never married, and whether they went to college. Neither label is an input. Four architectures are trained through the
HTTP API with several seeds each, on one dataset whose labels are bound to the tasks' names: a network for each task,
one trunk for all (``shared_bottom``), a multi-gate mixture of experts (``mmoe``) and progressive layered extraction
(``ple``). Beside them stand scikit-learn's logistic regression and gradient boosting, on the rows that the service
dealt to the same splits, the former with the same inputs: numbers scaled, and every value of every column as one of a
set.

What is printed is the area under the ROC curve on the test split, mean and spread over the seeds; then what one run
with a verdict on sharing says of it. On two cores it takes about 26 minutes beside ``TASKLOOM_WORKER_SLOTS=2 taskloom
serve``, and twice that with one training at a time; ``--seeds 1`` a quarter of either.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from examples.census_income import CODES, Service

NUMBERS = (
    "age",
    "wage_per_hour",
    "capital_gains",
    "capital_losses",
    "stock_dividends",
    "num_emp",
    "weeks_worked",
)
COLLEGE = (
    "Some college but no degree",
    "Associates degree-occup /vocational",
    "Associates degree-academic program",
    "Bachelors degree(BA AB BS)",
    "Masters degree(MA MS MEng MEd MSW MBA)",
    "Prof school degree (MD DDS DVM LLB JD)",
    "Doctorate degree(PhD EdD)",
)
TASKS = ("income", "never_married", "some_college")

DATASET: dict[str, Any] = {
    "name": "census3",
    "fields": {
        "person": {
            "columns": "*",
            "exclude": ["instance_weight", "education", "marital_stat"],
            "types": dict.fromkeys(CODES, "categorical"),
        },
        # Numbers twice, as amounts and as one of a set: they have favourite values, zero above all.
        "numbers": {"columns": list(NUMBERS)},
        "values": {"columns": [{"name": name, "type": "categorical"} for name in NUMBERS]},
    },
    "labels": {
        "income": {"column": "income_50k"},
        "never_married": {"column": "marital_stat", "positive": "Never married"},
        "some_college": {"column": "education", "positive": list(COLLEGE)},
    },
    "missing": ["?"],
    "splits": {"train": 0.7, "valid": 0.15, "test": 0.15},
    "seed": 1,
}
INPUTS = ["person", "numbers", "values"]
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "single_task": {"layers": [256, 128]},
    "shared_bottom": {"layers": [256, 128]},
    "mmoe": {"experts": 4, "expert_layers": [128, 64]},
    "ple": {"shared_experts": 2, "task_experts": 1, "expert_layers": [128], "levels": 2},
}
TRAINER: dict[str, Any] = {
    "n_epochs": 10,
    "batch_size": 512,
    "optimizer": "adamw",
    "lr": 0.001,
    "l2": 0.5,
    "lr_scheduler": "cosine",
}
Scores = dict[str, list[float]]


def register(service: Service, file: Path) -> None:
    """Upload the file and make the dataset, and a model of each architecture."""
    upload = service.upload(file)
    dataset = service.post("/datasets", DATASET | {"source": {"upload": upload["id"]}})
    for split in dataset["splits"]:
        print(f"{split['split']}: {split['rows']:,} rows")
    for name, sizes in ARCHITECTURES.items():
        architecture = {"type": name, "inputs": INPUTS, "dropout": 0.3, **sizes}
        tasks = [{"name": task, "kind": "binary", "metrics": ["roc_auc"]} for task in TASKS]
        model = service.post("/models", {"name": name, "architecture": architecture, "tasks": tasks})
        print(f"{name}: {len(model['modules'])} modules")


def start(service: Service, model: str, seed: int, epochs: int, **further: Any) -> dict[str, Any]:
    """Queue a training of a model with one seed; return the run."""
    trainer = TRAINER | {"n_epochs": epochs, "seed": seed}
    body = {"datasets": ["census3"], "trainer": trainer, "init_from": None, **further}
    return service.post(f"/models/{model}/runs", body)


def areas(service: Service, run: dict[str, Any]) -> dict[str, float]:
    """Wait for a run; return its version's test area under the curve for each task."""
    run = service.finished(run)
    scores = service.get(f"/models/{run['model']}/versions/{run['model_version']}/scores")
    return {task: scores[f"{task}/census3/test/roc_auc"] for task in TASKS}


def rows(service: Service, split: str) -> tuple[dict[str, list[Any]], dict[str, NDArray[Any]]]:
    """Return the raw columns and the labels of a split, as the service has them."""
    columns: dict[str, list[Any]] = {}
    labels: dict[str, list[Any]] = {}
    total, offset = 1, 0
    while offset < total:
        page = service.get(f"/datasets/census3/{split}/rows?limit=1000&offset={offset}")
        for kept, new in ((columns, page["X_dict"]), (labels, page["Y_dict"])):
            for name, values in new.items():
                kept.setdefault(name, []).extend(values)
        total, offset = page["rows"], offset + 1000
    return columns, {name: np.asarray(values).astype(bool) for name, values in labels.items()}


def baselines(service: Service) -> dict[str, Scores]:
    """Train scikit-learn's logistic regression and gradient boosting on the train split; score the test split."""
    # Only those who compare need it.
    from scipy.sparse import hstack  # noqa: PLC0415
    from sklearn.ensemble import HistGradientBoostingClassifier  # noqa: PLC0415
    from sklearn.linear_model import LogisticRegression  # noqa: PLC0415
    from sklearn.metrics import roc_auc_score  # noqa: PLC0415
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler  # noqa: PLC0415

    (X_train, Y_train), (X_test, Y_test) = (rows(service, split) for split in ("train", "test"))
    names = list(X_train)

    def table(columns: dict[str, list[Any]], chosen: Sequence[str], dtype: Any) -> NDArray[Any]:
        return np.stack([np.asarray(columns[name], dtype=dtype) for name in chosen], axis=1)

    texts = [table(columns, names, str) for columns in (X_train, X_test)]
    onehot = OneHotEncoder(max_categories=257, handle_unknown="infrequent_if_exist", dtype=np.float32)
    numbers = [table(columns, NUMBERS, float) for columns in (X_train, X_test)]
    scaler = StandardScaler().fit(numbers[0])
    hot = [onehot.fit_transform(texts[0]), onehot.transform(texts[1])]
    linear = [hstack([scaler.transform(n), h], format="csr") for n, h in zip(numbers, hot, strict=True)]
    others = [i for i, name in enumerate(names) if name not in NUMBERS]
    codes = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1).fit(texts[0][:, others])
    boosted = [np.hstack([n, codes.transform(t[:, others])]) for n, t in zip(numbers, texts, strict=True)]

    found: dict[str, Scores] = {"logistic regression": {}, "gradient boosting": {}}
    for task in TASKS:
        regression = LogisticRegression(max_iter=1000).fit(linear[0], Y_train[task])
        boosting = HistGradientBoostingClassifier(random_state=0).fit(boosted[0], Y_train[task])
        answers = (regression.decision_function(linear[1]), boosting.decision_function(boosted[1]))
        for name, answer in zip(found, answers, strict=True):
            found[name][task] = [float(roc_auc_score(Y_test[task], answer))]
    return found


def show(name: str, scores: Scores) -> None:
    """Print a line of the table."""
    cells = [f"{fmean(scores[task]):.4f} ± {pstdev(scores[task]):.4f}" for task in TASKS]
    print(f"{name:<20} {'  '.join(f'{cell:>17}' for cell in cells)}")


def main(
    file: Path, url: str, seeds: Sequence[int] = range(5), epochs: int = TRAINER["n_epochs"]
) -> tuple[dict[str, Scores], dict[str, Any]]:
    """Train, compare and judge.

    Returns:
        Test areas under the curve by way and task, one for each seed; and the verdict on the shared trunk.
    """
    started = time.perf_counter()
    service = Service(url)
    register(service, file)
    # All are queued at once, so that as many train side by side as there are workers.
    queued = {model: [start(service, model, seed, epochs) for seed in seeds] for model in ARCHITECTURES}
    judged = start(service, "shared_bottom", seeds[0], epochs, verdict=True)

    found: dict[str, Scores] = {}
    print(f"{'test roc_auc':<20} {'  '.join(f'{task:>17}' for task in TASKS)}")
    for model, runs in queued.items():
        scored = [areas(service, run) for run in runs]
        found[model] = {task: [scores[task] for scores in scored] for task in TASKS}
        show(model, found[model])
    for name, scores in baselines(service).items():
        found[name] = scores
        show(name, scores)

    service.finished(judged)
    verdict = service.get(f"/runs/{judged['id']}/verdict")
    print(verdict["summary"])
    for task in verdict["tasks"]:
        for found_here in task["comparisons"]:
            gain = "{gain:+.4f} ({low:+.4f} to {high:+.4f})".format(**found_here)
            print(f"{task['task']:<14} {found_here['metric']} gains {gain} by sharing: {task['word']}")
    print(f"{time.perf_counter() - started:.0f} s in all")
    return found, verdict


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--seeds", type=int, default=5, help="how many trainings of each architecture")
    arguments = parser.parse_args()
    main(arguments.file, arguments.url, range(arguments.seeds))
