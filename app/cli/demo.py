"""``taskloom demo``: the tutorial and a real data set, played over HTTP through a real server and worker."""

from __future__ import annotations

import gzip
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table

Array = NDArray[Any]

_SPLITS = {"train": 0.8, "valid": 0.1, "test": 0.1}
_START_SECONDS = 120.0
_SHAPES_ENOUGH, _DIGITS_ENOUGH = 0.90, 0.95


class DemoFailedError(Exception):
    """The demo did not come out as it should."""


def run_demo(*, keep: bool, port: int, data_dir: Path | None) -> int:
    """Play the demo.

    Args:
        keep: Whether to leave the server up at the end, until interrupted.
        port: The server's port; 0 takes a free one.
        data_dir: Folder for its data; None: a temporary one, removed at the end.

    Returns:
        The command's exit status: 0 where every score is as high as it should be.
    """
    console = Console()
    with tempfile.TemporaryDirectory(prefix="taskloom-demo-") as temporary:
        try:
            with _server(port, data_dir or Path(temporary), console) as url:
                play = _Play(url, console)
                play.shapes()
                play.digits()
                console.print(
                    f"\n[bold]Look around:[/] {url}/docs (Swagger UI), {url}/v1/scores, {url}/metrics"
                )
                if not keep:
                    console.print("The server stops now; `taskloom demo --keep` leaves it up.")
                else:
                    console.print("Ctrl-C stops the server.")
                    _wait_for_interrupt()
        except (DemoFailedError, httpx.HTTPError) as error:
            console.print(f"[bold red]The demo failed:[/] {error}")
            return 1
    return 0


class _Play:
    """The demo's acts, each a series of HTTP requests."""

    def __init__(self, url: str, console: Console) -> None:
        self._http = httpx.Client(base_url=f"{url}/v1", timeout=60)
        self._console = console

    def shapes(self) -> None:
        """Circle and square share a trunk; then the circle's inverse is put on the trained model."""
        self._console.rule("[bold]Circle and square: two tasks, one trunk")
        rng = np.random.default_rng(7)
        for name in ("circle", "square", "inv_circle"):
            points = rng.uniform(-1, 1, (1000, 2))
            self._register_splits(
                f"{name}Dataset", f"{name}_data", points, {f"{name}_task": _inside(name, points)}
            )
            self._post("/tasks", _shape_task(name))
        self._post("/models", {"name": "shapes", "tasks": ["circle_task", "square_task"]})
        training = {
            "datasets": ["circleDataset", "squareDataset"],
            "trainer": {"n_epochs": 20, "lr": 0.02, "lr_scheduler": "linear", "seed": 1},
        }
        self._train("shapes", training)

        self._console.rule("[bold]A third task, put on the trained model")
        self._post("/models/shapes/tasks", {"task": "inv_circle_task"})
        version = self._train("shapes", training | {"datasets": [*training["datasets"], "inv_circleDataset"]})
        self._show_scores("shapes", version, _SHAPES_ENOUGH)
        corners = [[0.0, 0.0], [0.95, 0.95]]
        answer = self._post(
            "/models/shapes/predict",
            {"inputs": {"circle_data": corners, "square_data": corners, "inv_circle_data": corners}},
        )
        self._show_predictions(
            f"Predictions for the points {corners}", answer["predictions"], [[1, 0], [1, 0], [0, 1]]
        )

    def digits(self) -> None:
        """Handwritten digits, labelled for three tasks at once."""
        self._console.rule("[bold]Handwritten digits: ten classes, odd or even, at least five")
        pixels, digit = load_digits()
        labels = {"digit": digit, "is_odd": digit % 2, "at_least_five": (digit >= 5).astype(int)}
        test = self._register_splits("digits", "pixels", pixels, labels)
        for task, n_classes in (("digit", 10), ("is_odd", 2), ("at_least_five", 2)):
            self._post("/tasks", _digit_task(task, n_classes))
        self._post("/models", {"name": "digits", "tasks": list(labels)})
        version = self._train(
            "digits",
            {"datasets": ["digits"], "trainer": {"n_epochs": 30, "lr": 0.003, "l2": 0.0001, "seed": 1}},
        )
        self._show_scores("digits", version, _DIGITS_ENOUGH, split="test")
        rows = test[:8]
        answer = self._post("/models/digits/predict", {"inputs": {"pixels": pixels[rows].tolist()}})
        self._show_predictions(
            f"Predictions for test digits {digit[rows].tolist()}",
            answer["predictions"],
            [values[rows].tolist() for values in labels.values()],
        )

    def _register_splits(self, dataset: str, field: str, X: Array, labels: dict[str, Array]) -> Array:
        """Register a dataset in three splits; return the rows of the last, the test split."""
        order = np.random.default_rng(0).permutation(len(X))
        ends = np.cumsum([round(share * len(X)) for share in _SPLITS.values()])[:-1]
        parts = np.split(order, ends)
        for split, rows in zip(_SPLITS, parts, strict=True):
            body = {
                "name": dataset,
                "split": split,
                "X_dict": {field: X[rows].tolist()},
                "Y_dict": {task: values[rows].tolist() for task, values in labels.items()},
            }
            self._post("/datasets", body)
        return parts[-1]

    def _train(self, model: str, request: dict[str, Any]) -> int:
        """Start a run, show its progress until it is over, and return the version that it made."""
        run = self._post(f"/models/{model}/runs", request)
        columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
        with Progress(*columns, console=self._console) as bars:
            bar = bars.add_task(f"{run['id']} queued", total=1.0)
            while run["status"] in ("queued", "running"):
                time.sleep(0.1)
                run = self._get(f"/runs/{run['id']}")
                progress = run["progress"] or {
                    "fraction": 0.0,
                    "epoch": 0,
                    "n_epochs": request["trainer"]["n_epochs"],
                }
                done = 1.0 if run["status"] == "succeeded" else progress["fraction"]
                epochs = f"epoch {progress['epoch']}/{progress['n_epochs']}"
                bars.update(bar, completed=done, description=f"{run['id']} {run['status']} {epochs}")
        if run["status"] != "succeeded":
            raise DemoFailedError(f"run {run['id']} {run['status']}: {(run['error'] or {}).get('detail')}")
        return run["model_version"]

    def _show_scores(self, model: str, version: int, enough: float, split: str | None = None) -> None:
        scores = self._get(f"/models/{model}/versions/{version}/scores")
        table = Table("score", "value", title=f"Scores of model '{model}', version {version}")
        for key, value in scores.items():
            table.add_row(key, "undefined" if value is None else f"{value:.4f}")
        self._console.print(table)
        low = {
            key: v
            for key, v in scores.items()
            if (v is None or v < enough) and (split is None or f"/{split}/" in key)
        }
        if low:
            raise DemoFailedError(f"scores below {enough}: {low}")

    def _show_predictions(self, title: str, predictions: dict[str, Any], truth: list[list[int]]) -> None:
        table = Table("task", "predicted", "true", "sure of the first", title=title)
        for (task, answer), golds in zip(predictions.items(), truth, strict=True):
            table.add_row(task, str(answer["preds"]), str(golds), f"{max(answer['probs'][0]):.3f}")
        self._console.print(table)

    def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        return _checked(self._http.post(path, json=body))

    def _get(self, path: str) -> dict[str, Any]:
        return _checked(self._http.get(path))


def load_digits() -> tuple[Array, Array]:
    """Return the 1,797 digits: pixels ``[n, 64]`` from 0 to 1, and which digit each is, ``[n]``."""
    with files("app.cli").joinpath("digits.csv.gz").open("rb") as packed, gzip.open(packed) as table:
        rows = np.loadtxt(table, delimiter=",")
    return rows[:, :-1] / 16, rows[:, -1].astype(int)


def _inside(shape: str, points: Array) -> Array:
    """Label points by where they lie: 1 inside the circle or square, 0 outside; the other way for ``inv_circle``."""
    if shape == "square":
        return (np.abs(points) < 0.7).all(axis=1).astype(int)
    in_circle = np.square(points).sum(axis=1) < 0.64
    return (in_circle != (shape == "inv_circle")).astype(int)


def _shape_task(name: str) -> dict[str, Any]:
    return {
        "name": f"{name}_task",
        "module_pool": {
            "base_mlp": {
                "type": "Sequential",
                "layers": [
                    {"type": "Linear", "in_features": 2, "out_features": 8},
                    {"type": "ReLU"},
                    {"type": "Linear", "in_features": 8, "out_features": 4},
                    {"type": "ReLU"},
                ],
            },
            f"{name}_head_module": {"type": "Linear", "in_features": 4, "out_features": 2},
        },
        "op_sequence": [
            {"module_name": "base_mlp", "inputs": [["_input_", f"{name}_data"]]},
            {"name": f"{name}_head", "module_name": f"{name}_head_module", "inputs": ["base_mlp"]},
        ],
    }


def _digit_task(name: str, n_classes: int) -> dict[str, Any]:
    return {
        "name": name,
        "module_pool": {
            "trunk": {
                "type": "Sequential",
                "layers": [
                    {"type": "Linear", "in_features": 64, "out_features": 128},
                    {"type": "ReLU"},
                    {"type": "Dropout", "p": 0.1},
                    {"type": "Linear", "in_features": 128, "out_features": 64},
                    {"type": "ReLU"},
                ],
            },
            f"{name}_head": {"type": "Linear", "in_features": 64, "out_features": n_classes},
        },
        "op_sequence": [
            {"module_name": "trunk", "inputs": [["_input_", "pixels"]]},
            {"module_name": f"{name}_head", "inputs": ["trunk"]},
        ],
        "metrics": ["accuracy", "f1_macro"] if n_classes > 2 else ["accuracy", "f1", "roc_auc"],
    }


@contextmanager
def _server(port: int, data_dir: Path, console: Console) -> Generator[str]:
    """Start ``taskloom serve`` as its own process, yield its address, and stop it."""
    data_dir.mkdir(parents=True, exist_ok=True)
    port = port or _free_port()
    url, log_path = f"http://127.0.0.1:{port}", data_dir / "server.log"
    command = [sys.executable, "-m", "app.cli", "serve", "--port", str(port), "--data-dir", str(data_dir)]
    environment = {name: value for name, value in os.environ.items() if name != "TASKLOOM_DATABASE_URL"}
    with log_path.open("w") as log:
        process = subprocess.Popen(command, stderr=log, env=environment)
    try:
        with console.status(f"Starting the server on {url} …"):
            _wait_until_ready(url, process, log_path)
        console.print(f"Server and worker are up on [bold]{url}[/] (log: {log_path})")
        yield url
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log_path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise DemoFailedError(
                f"the server ended with status {process.returncode}:\n{log_path.read_text()[-2000:]}"
            )
        try:
            if httpx.get(f"{url}/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(0.1)
    raise DemoFailedError(f"the server was not ready within {_START_SECONDS:.0f} s; see {log_path}")


def _wait_for_interrupt() -> None:
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        return


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return probe.getsockname()[1]


def _checked(response: httpx.Response) -> dict[str, Any]:
    if response.is_error:
        raise DemoFailedError(f"{response.request.method} {response.request.url.path}: {response.text}")
    return response.json()
