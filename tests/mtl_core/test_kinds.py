"""Every kind of task: what it stands for in a spec, and that it learns, predicts and scores by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from pydantic import ValidationError

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier
from mtl_core.building.tasks import Limits, build_tasks, canonical_task, check_task
from mtl_core.kinds import KINDS
from mtl_core.losses import LOSSES
from mtl_core.outputs import OUTPUTS
from mtl_core.scoring.metrics import METRICS
from mtl_core.specs import TaskSpec
from mtl_core.task import WEIGHTS
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs" / "tasks.md"
N = 240
# How many classes, labels or values the tasks below have.
LABELS: dict[str, int | None] = {
    "multiclass": 3,
    "binary": None,
    "multilabel": 3,
    "ordinal": 4,
    "regression": 2,
    "quantile": None,
    "count": None,
    "ranking": None,
}


def spec_of(kind: Any, labels: int | None, name: str = "t", **changes: Any) -> TaskSpec:
    """A task of a shared trunk and a head as wide as its kind says."""
    n_outputs = KINDS.build(kind).n_outputs(labels)
    return TaskSpec.model_validate(
        {
            "name": name,
            "module_pool": {
                "trunk": {
                    "type": "Sequential",
                    "layers": [{"type": "Linear", "in_features": 4, "out_features": 16}, {"type": "ReLU"}],
                },
                f"{name}_head": {"type": "Linear", "in_features": 16, "out_features": n_outputs},
            },
            "op_sequence": [
                {"module_name": "trunk", "inputs": [["_input_", "x"]]},
                {"module_name": f"{name}_head", "inputs": ["trunk"]},
            ],
            "kind": kind,
        }
        | changes
    )


def labels_of(x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Labels of each kind that a small network can tell from the field ``[n, 4]``."""
    signal = x[:, 0] + x[:, 1]
    groups = torch.arange(len(x)) % 12
    return {
        "multiclass": x[:, :3].argmax(dim=1),
        "binary": (signal > 0).long(),
        "multilabel": (x[:, :3] > 0).long(),
        "ordinal": torch.bucketize(signal, torch.tensor([-1.0, 0.0, 1.0])),
        "regression": torch.stack([signal, x[:, 2] - 1], dim=1),
        "quantile": signal + 3,
        "count": (x[:, 3].exp() + 1).round(),
        "ranking": torch.stack([groups, torch.bucketize(signal, torch.tensor([-0.5, 0.5]))], dim=1).float(),
    }


def half_of(labels: torch.Tensor, seed: int) -> torch.Tensor:
    """The labels with half of them missing, of an example with several each by itself."""
    kept = torch.rand(labels.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    return torch.where(kept, labels, math.nan if labels.is_floating_point() else -1)


@pytest.fixture(scope="module")
def trained() -> tuple[MultitaskClassifier, dict[str, list[float]], DictDataLoader]:
    """One model of a task of each kind after some steps, each task's losses on the way, and whole labels."""
    x = torch.randn(N, 4, generator=torch.Generator().manual_seed(0))
    every = labels_of(x)
    unscaled = {"target_scaling": None}
    specs = [
        spec_of(kind, LABELS[kind], kind, **(unscaled if kind in {"regression", "quantile"} else {}))
        for kind in KINDS.entries
    ]
    model = MultitaskClassifier(build_tasks(specs, seed=1), device=-1)
    weights = torch.rand(N, generator=torch.Generator().manual_seed(2))
    fields = {"x": x, WEIGHTS: weights}
    partial = {kind: half_of(labels, i) for i, (kind, labels) in enumerate(every.items())}
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    losses: dict[str, list[float]] = {kind: [] for kind in every}
    for _ in range(80):
        optimizer.zero_grad()
        by_task, _ = model.calculate_loss(fields, partial)
        torch.stack(list(by_task.values())).sum().backward()
        optimizer.step()
        for kind, loss in by_task.items():
            losses[kind].append(loss.item())
    return model, losses, DictDataLoader(DictDataset("d", "test", {"x": x}, every), batch_size=100)


@pytest.mark.parametrize("kind", KINDS.entries)
def test_a_kind_alone_learns_from_half_of_its_labels(kind: str, trained: Any) -> None:
    _, losses, _ = trained
    start, end = losses[kind][0], losses[kind][-1]
    # The likelihood of counts is known but for a constant, so that only the way down tells.
    assert end < start - 0.2 if kind == "count" else end < 0.7 * start


@pytest.mark.parametrize("kind", KINDS.entries)
def test_a_kind_alone_predicts_and_scores(kind: str, trained: Any) -> None:
    model, _, loader = trained
    predicted = model.predict(loader, return_preds=True)
    golds, preds, probs = (predicted[what][kind] for what in ("golds", "preds", "probs"))
    assert preds.shape == (golds.shape[:1] if kind == "ranking" else golds.shape)
    assert probs.isfinite().all()
    scores = {row.metric: row for row in model.evaluate([loader], with_loss=True) if row.task == kind}
    assert [name for name, row in scores.items() if row.reason] == []
    assert all(row.n == N for row in scores.values())
    good = {
        "multiclass": ("accuracy", 0.7),
        "binary": ("roc_auc", 0.9),
        "multilabel": ("roc_auc", 0.85),
        "ordinal": ("cohen_kappa", 0.7),
        "regression": ("r2", 0.6),
        "ranking": ("ndcg", 0.9),
    }
    if kind in good:
        metric, least = good[kind]
        assert scores[metric].value > least
    elif kind == "quantile":
        assert (probs.diff(dim=1) >= 0).all()
        assert torch.equal(preds, probs[:, 1])
        assert 0.6 < scores["interval_coverage"].value < 0.97
    else:
        assert (preds > 0).all()
        assert scores["poisson_deviance"].value < 0.6


@pytest.mark.parametrize("kind", KINDS.entries)
def test_a_kind_is_written_out_and_reads_back_as_it_is(kind: str) -> None:
    spec = spec_of(kind, LABELS[kind])
    fields = KINDS.build(kind).fields()
    written = spec.written_out()
    assert written["kind"] == kind
    assert all(written[name] == fields[name] for name in ("loss", "output", "metrics"))
    assert TaskSpec.model_validate(written).written_out() == written
    assert TaskSpec.model_validate_json(spec.model_dump_json()) == spec
    canonical = canonical_task(spec)
    assert canonical["kind"] == KINDS.canonical(kind)
    assert canonical_task(TaskSpec.model_validate(canonical)) == canonical
    assert canonical_task(spec_of({"type": kind}, LABELS[kind])) == canonical


@pytest.mark.parametrize("kind", KINDS.entries)
def test_the_head_of_a_kind_suits_its_loss_and_output(kind: str) -> None:
    spec = spec_of(kind, LABELS[kind])
    n_outputs = KINDS.build(kind).n_outputs(LABELS[kind])
    assert check_task(spec, Limits()).output_shape == [n_outputs]
    classes = {"multiclass": 3, "binary": 2, "multilabel": 2, "ordinal": 4}
    assert LOSSES.build(spec.loss).classes([n_outputs]) == classes.get(kind)


@pytest.mark.parametrize(
    ("kind", "n_outputs"),
    [
        ("multiclass", {2: 2, 5: 5, None: None, 1: None}),
        ("binary", {None: 1, 2: 1, 3: None, 1: None}),
        ("multilabel", {1: 1, 4: 4, None: None, 0: None}),
        ("ordinal", {2: 1, 5: 4, None: None, 1: None}),
        ("regression", {None: 1, 1: 1, 3: 3, 0: None}),
        ("quantile", {None: 3, 1: 3, 2: None}),
        ({"type": "quantile", "quantiles": [0.2, 0.8]}, {None: 2}),
        ("count", {None: 1, 2: 2, 0: None}),
        ("ranking", {None: 1, 1: 1, 2: None}),
    ],
)
def test_a_kind_knows_how_wide_its_head_is(kind: Any, n_outputs: dict[int | None, int | None]) -> None:
    for labels, expected in n_outputs.items():
        if expected is None:
            with pytest.raises(ValueError, match=r"labels must say|predicts one value|has 2 classes"):
                KINDS.build(kind).n_outputs(labels)
        else:
            assert KINDS.build(kind).n_outputs(labels) == expected


def test_what_is_given_beside_a_kind_holds_in_its_place() -> None:
    kind = {"type": "binary", "threshold": 0.2, "pos_weight": 3}
    spec = spec_of(kind, None, loss="binary_focal")
    assert (spec.loss, spec.output) == ("binary_focal", {"type": "sigmoid", "threshold": 0.2})
    spec = spec_of(kind, None, output="identity", metrics=["mae"])
    assert (spec.output, spec.metrics) == ("identity", ["mae"])
    assert spec.loss == {"type": "binary_cross_entropy", "pos_weight": 3, "label_smoothing": 0}


def test_the_arguments_of_a_kind_reach_its_parts() -> None:
    smooth = spec_of({"type": "multiclass", "label_smoothing": 0.1, "class_weights": [1, 2, 3]}, 3)
    assert smooth.loss == {"type": "cross_entropy", "label_smoothing": 0.1, "weight": [1, 2, 3]}
    assert spec_of({"type": "multiclass", "focal_gamma": 1}, 3).loss == {"type": "focal", "gamma": 1}
    rare = spec_of({"type": "multilabel", "pos_weight": [1, 2], "focal_gamma": 1}, 2)
    assert rare.loss == {"type": "binary_focal", "gamma": 1, "pos_weight": [1, 2]}
    assert spec_of({"type": "regression", "huber_delta": 2}, 1).loss == {"type": "huber", "delta": 2}
    levels = {"quantiles": [0.25, 0.75]}
    spec = spec_of({"type": "quantile", **levels}, None)
    assert (spec.loss, spec.output) == ({"type": "pinball", **levels}, {"type": "quantiles", **levels})
    assert spec.metrics[0] == {"type": "pinball", **levels}


@pytest.mark.parametrize(
    ("kind", "at", "says"),
    [
        ("binry", (), "did you mean binary"),
        (3, (), "a kind is a name or an object"),
        ({}, ("type",), "is a string"),
        ({"type": "binary", "weight": 1}, ("weight",), "is no argument of binary"),
        ({"type": "binary", "pos_weight": [1]}, ("pos_weight",), "valid number"),
        ({"type": "binary", "threshold": 2}, (), "threshold must be between 0 and 1"),
        ({"type": "binary", "pos_weight": 0}, (), "pos_weight must be above 0"),
        ({"type": "binary", "focal_gamma": 1, "label_smoothing": 0.1}, (), "not both"),
        ({"type": "multiclass", "label_smoothing": 2}, (), "label_smoothing must be between 0 and 1"),
        ({"type": "multiclass", "class_weights": [-1]}, (), "weight must hold"),
        ({"type": "quantile", "quantiles": [0.9, 0.1]}, (), "must rise"),
        ({"type": "quantile", "quantiles": [0]}, (), "above 0 and below 1"),
        ({"type": "regression", "huber_delta": 0}, (), "delta must be above 0"),
        ({"type": "ordinal", "{0}": 1}, ("{0}",), "is no argument of ordinal"),
    ],
)
def test_a_wrong_kind_is_refused_at_its_argument(kind: Any, at: tuple[str, ...], says: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TaskSpec.model_validate(spec_of("binary", None).model_dump() | {"kind": kind})
    (error,) = caught.value.errors()
    assert error["loc"] == ("kind", *at)
    assert says in error["msg"]


def specs_on_the_page() -> Iterator[Mapping[str, Any]]:
    whole = spec_of("binary", None).model_dump(mode="json", include={"name", "module_pool", "op_sequence"})
    for block in blocks(PAGE.read_text()):
        assert block.language == "json"
        yield whole | json.loads(block.text)


def test_every_example_of_the_page_is_a_task_and_every_kind_has_one() -> None:
    specs = [TaskSpec.model_validate(spec) for spec in specs_on_the_page()]
    for spec in specs:
        LOSSES.build(spec.loss)
        OUTPUTS.build(spec.output)
        for metric in spec.metrics:
            METRICS.build(metric)
    assert check_task(specs[0], Limits()).fields.keys() == {"person"}
    assert {KINDS.arguments(spec.kind)[0] for spec in specs} == set(KINDS.entries)
