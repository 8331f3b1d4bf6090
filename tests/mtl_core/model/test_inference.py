"""Scores and predictions of many tasks at once are those of each task by itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import SubsetRandomSampler

from mtl_core import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    Operation,
    OperationError,
    Scorer,
    Task,
)
from mtl_core.losses import LOSSES
from mtl_core.model.inference import Inference
from mtl_core.outputs import OUTPUTS, Output

N = 700
CLASSES = {"a": 3, "b": 3, "c": 3, "d": 2, "e": 2}


class AcrossRows(nn.Module):
    """What a row becomes depends on the others of its batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(dim=0)


class Counted(nn.Module):
    """Does to each batch what a function says, and notes how many rows it had."""

    def __init__(self, function: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.function = function
        self.sizes: list[int] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.sizes.append(len(x))
        return self.function(x)


def model_of(*layers: nn.Module, metrics: Sequence[str] = ("accuracy",)) -> MultitaskClassifier:
    torch.manual_seed(0)
    trunk = nn.Sequential(nn.Linear(5, 16), nn.ReLU(), *layers)
    sequence = [Operation("trunk", [("_input_", "x")])]
    tasks = [
        Task(
            name,
            {"trunk": trunk, f"{name}_head": nn.Linear(16, k)},
            [*sequence, Operation(f"{name}_head", ["trunk"])],
            Scorer(metrics),
        )
        for name, k in CLASSES.items()
    ]
    binary = Task(
        "binary",
        {"trunk": trunk, "binary_head": nn.Linear(16, 1)},
        [*sequence, Operation("binary_head", ["trunk"])],
        Scorer(["accuracy", "roc_auc"]),
        LOSSES.build("binary_cross_entropy"),
        OUTPUTS.build("sigmoid"),
    )
    return MultitaskClassifier([*tasks, binary], device="cpu")


def dataset() -> DictDataset:
    torch.manual_seed(1)
    labels = {name: torch.randint(-1, k, (N,)) for name, k in CLASSES.items()}
    return DictDataset("d", "test", {"x": torch.randn(N, 5)}, labels | {"binary": torch.randint(2, (N,))})


def scored_apart(
    model: MultitaskClassifier, batches: Sequence[tuple[dict[str, Any], dict[str, torch.Tensor]]]
) -> dict[str, float]:
    """Each task by itself, from what ``infer`` answers for the loader's batches."""
    values: dict[str, float] = {}
    for name, task in model.tasks.items():
        answers = [model.infer(X_dict, [name], ("probs", "preds"))[name] for X_dict, _ in batches]
        preds, probs = (torch.cat([one[kind] for one in answers]).numpy() for kind in ("preds", "probs"))
        golds = torch.cat([Y_dict[name] for _, Y_dict in batches]).numpy()
        scores = task.scorer.score(golds, preds, probs)
        values |= {f"{name}/d/test/{metric}": value for metric, value in scores.items()}
    return values


@pytest.mark.parametrize(
    "options",
    [{"batch_size": 32}, {"batch_size": 32, "shuffle": True}, {"batch_size": 64, "drop_last": True}],
)
@pytest.mark.parametrize("layers", [[], [nn.BatchNorm1d(16), nn.Dropout()], [AcrossRows()]])
def test_scores_are_those_of_each_task_and_batch_by_itself(
    layers: list[nn.Module], options: dict[str, Any]
) -> None:
    model = model_of(*layers, metrics=("accuracy", "f1_macro", "log_loss"))
    loader = DictDataLoader(dataset(), **options)
    torch.manual_seed(2)
    expected = scored_apart(model, list(loader))
    torch.manual_seed(2)
    scores = model.score([loader])
    assert list(scores) == list(expected)
    for key, value in scores.items():
        # Of classes that are counted nothing is rounded.
        tolerance = 1e-6 if key.endswith(("log_loss", "roc_auc")) else 0
        assert value == pytest.approx(expected[key], rel=tolerance, abs=0)


@pytest.mark.parametrize("shuffle", [False, True])
def test_modules_that_turn_out_to_go_row_by_row_are_given_larger_batches(shuffle: bool) -> None:
    module = Counted(lambda x: x.mul_(2).cumsum(dim=1))
    model = model_of(module, metrics=("accuracy", "log_loss"))
    loader = DictDataLoader(dataset(), batch_size=32, shuffle=shuffle)
    torch.manual_seed(2)
    expected = scored_apart(model, list(loader))
    module.sizes.clear()
    torch.manual_seed(2)
    assert model.score([loader, loader]) == {key: pytest.approx(value) for key, value in expected.items()}
    # Two by themselves and together; then eight at a time, in the second split from its start.
    assert module.sizes == [32, 32, 64, 256, 256, 124, 256, 256, 188]


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - x.mean(dim=0),
        lambda x: functional.dropout(x, 0.1, training=True),
        lambda x: x[:32],
        lambda x: x.reshape(-1, 32, 16).flatten(0, 1) if len(x) <= 32 else x.reshape(32, 16),
    ],
)
def test_modules_whose_rows_depend_on_their_batch_are_found_out(
    function: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    module = Counted(function)
    model, rows = model_of(module, metrics=("log_loss",)), torch.arange(640)
    full = dataset()
    data = DictDataset(
        "d", "test", {"x": full.X_dict["x"][rows]}, {name: y[rows] for name, y in full.Y_dict.items()}
    )
    loader = DictDataLoader(data, batch_size=32)
    torch.manual_seed(2)
    expected = scored_apart(model, list(loader))
    module.sizes.clear()
    torch.manual_seed(2)
    scores = model.score([loader, loader])
    assert module.sizes == [32, 32, 64, *[32] * 38]
    if function(torch.ones(32, 16)).eq(function(torch.ones(32, 16))).all():
        assert scores == {key: pytest.approx(value, rel=1e-5) for key, value in expected.items()}


def test_a_trial_leaves_random_numbers_as_they_were() -> None:
    model = model_of(Counted(lambda x: functional.dropout(x, 0.1, training=True)))
    torch.manual_seed(2)
    model.score([DictDataLoader(dataset(), batch_size=64)])
    after = torch.rand(1)
    torch.manual_seed(2)
    for X_dict, _ in DictDataLoader(dataset(), batch_size=64):
        model.infer(X_dict, list(CLASSES))
    assert torch.equal(after, torch.rand(1))


def test_modules_with_hooks_see_the_loaders_batches() -> None:
    module, sizes = nn.ReLU(), []
    module.register_forward_hook(lambda _, __, output: sizes.append(len(output)))
    model_of(module).score([DictDataLoader(dataset(), batch_size=100)])
    assert sizes == [100] * 7


def test_losses_of_heads_that_are_computed_together_are_their_own() -> None:
    model, data = model_of(), dataset()
    rows = {
        row.task: row.value
        for row in model.evaluate([DictDataLoader(data, batch_size=32)], with_loss=True)
        if row.metric == "loss"
    }
    losses, _ = model.eval().calculate_loss(data.X_dict, data.Y_dict)
    assert rows == {name: pytest.approx(loss.item(), rel=1e-5) for name, loss in losses.items()}


def test_sibling_heads_with_a_softmax_are_answered_in_one_block() -> None:
    model = model_of()
    inference = Inference(model.eval(), dict.fromkeys(model.tasks, ("probs", "preds")))
    assert [block.tasks for block in inference.blocks] == [("a", "b", "c"), ("d", "e"), ("binary",)]
    X_dict = {"x": torch.randn(9, 5)}
    expected = model.infer(X_dict, model.task_names)
    for block, answered in zip(inference.blocks, inference(X_dict), strict=True):
        for place, name in enumerate(block.tasks):
            assert torch.equal(block.of_task(answered["preds"], place), expected[name]["preds"])
            torch.testing.assert_close(block.of_task(answered["probs"], place), expected[name]["probs"])


def test_heads_of_sequences_are_answered_alike() -> None:
    operations = [Operation("trunk", [("_input_", "x")])]
    trunk = nn.Linear(5, 16)
    tasks = [
        Task(name, {"trunk": trunk, name: nn.Linear(16, 4)}, [*operations, Operation(name, ["trunk"])])
        for name in ("a", "b")
    ]
    model, X_dict = MultitaskClassifier(tasks, device="cpu"), {"x": torch.randn(6, 7, 5)}
    inference = Inference(model.eval(), dict.fromkeys(model.tasks, ("logits", "preds")))
    ((block, answered),) = zip(inference.blocks, inference(X_dict), strict=True)
    for place, expected in enumerate(model.infer(X_dict, ["a", "b"]).values()):
        torch.testing.assert_close(block.of_task(answered["logits"], place), expected["logits"])
        assert torch.equal(block.of_task(answered["preds"], place), expected["preds"])


def test_a_head_that_fails_among_its_siblings_is_named() -> None:
    operations = [Operation("trunk", [("_input_", "x")])]
    trunk = nn.Linear(5, 8)
    tasks = [
        Task(name, {"trunk": trunk, name: nn.Linear(16, 4)}, [*operations, Operation(name, ["trunk"])])
        for name in ("a", "b")
    ]
    labels = dict.fromkeys(("a", "b"), torch.zeros(3).long())
    loader = DictDataLoader(DictDataset("d", "test", {"x": torch.randn(3, 5)}, labels))
    with pytest.raises(OperationError, match="'a'"):
        MultitaskClassifier(tasks, device="cpu").score([loader])


def test_what_a_dataset_holds_stays_as_it_was() -> None:
    def spoiling(golds: Any, preds: Any, probs: Any) -> float:
        for array in (golds, preds, probs):
            array[:] = 7
        return 0.0

    data = DictDataset("d", "test", {"x": torch.randn(8, 3)}, {"t": torch.ones(8)})
    before = data.X_dict["x"].clone()
    for module in (nn.ReLU(inplace=True), nn.Identity()):
        operations = [Operation("m", [("_input_", "x")])]
        scorer = Scorer(custom_metric_funcs={"own": spoiling})
        task = Task("t", {"m": module}, operations, scorer, output_func=OUTPUTS.build("identity"))
        MultitaskClassifier([task], device="cpu").score([DictDataLoader(data, batch_size=8)])
        assert torch.equal(data.X_dict["x"], before)
        assert torch.equal(data.Y_dict["t"], torch.ones(8))


def test_examples_may_be_drawn_more_often_than_there_are_any() -> None:
    model, data = model_of(), dataset()
    drawn = torch.arange(N).repeat(30).tolist()
    loader = DictDataLoader(data, batch_size=500, sampler=drawn)
    once = model.score([DictDataLoader(data, batch_size=500)])
    assert model.score([loader]) == {key: pytest.approx(value) for key, value in once.items()}
    some = model.predict(DictDataLoader(data, batch_size=2, sampler=SubsetRandomSampler([3, 4, 5])), True)
    assert {tuple(values["a"].shape) for values in some.values()} == {(3,), (3, 3)}


def test_predictions_keep_the_dtype_in_which_their_output_function_gives_them() -> None:
    class Large(Output):
        def __init__(self, dtype: torch.dtype) -> None:
            self.dtype = dtype

        def __call__(self, logits: torch.Tensor) -> torch.Tensor:
            return logits

        def preds(self, probs: torch.Tensor) -> torch.Tensor:
            return (probs[:, 0] * 100).to(self.dtype)

    x = torch.arange(6_000).unsqueeze(1)
    data = DictDataset("d", "test", {"x": x.float()}, {"t": x[:, 0] * 100})
    for dtype in (torch.int64, torch.int32, torch.float32):
        operations = [Operation("m", [("_input_", "x")])]
        task = Task("t", {"m": nn.Identity()}, operations, output_func=Large(dtype))
        model = MultitaskClassifier([task], device="cpu")
        preds = model.predict(DictDataLoader(data, batch_size=5_000), return_preds=True)["preds"]["t"]
        assert preds.dtype == dtype
        assert preds.tolist() == data.Y_dict["t"].tolist()
        assert model.score([DictDataLoader(data, batch_size=5_000)]) == {"t/d/test/accuracy": 1.0}
