from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F  # noqa: N812

from mtl_core import Operation, Scorer, Task, TaskloomError

POOL = {"trunk": nn.Linear(2, 4), "head": nn.Linear(4, 2)}
PATH = [Operation("trunk", [("_input_", "x")]), Operation("head", ["trunk"])]


def test_an_operation_is_named_after_its_module_unless_told() -> None:
    assert Operation("trunk", []).name == "trunk"
    assert Operation("trunk", [], name="first").name == "first"


def test_inputs_may_be_lists_as_json_has_them() -> None:
    assert Operation("m", [["_input_", "x"], ["lstm", 0], "a"]).inputs == [("_input_", "x"), ("lstm", 0), "a"]


@pytest.mark.parametrize("inputs", ["base_mlp", [("a", 1, 2)], [("a",)], [3], [None], [("a", 1.5)]])
def test_an_input_that_is_no_name_or_pair_is_refused(inputs: object) -> None:
    with pytest.raises(TaskloomError, match="operation 'm'"):
        Operation("m", inputs)  # type: ignore[arg-type]


def test_defaults_are_cross_entropy_softmax_and_accuracy() -> None:
    task = Task("t", POOL, PATH)
    logits, labels = torch.randn(5, 2), torch.tensor([0, 1, 1, 0, 1])
    assert torch.equal(task.loss_func(logits, labels), F.cross_entropy(logits, labels))
    assert torch.equal(task.output_func(logits), F.softmax(logits, dim=1))
    assert list(task.scorer.metrics) == ["accuracy"]
    assert task.output_op == "head"
    assert task.fields == ["x"]


def test_each_task_has_its_own_defaults() -> None:
    first, second = Task("a", POOL, PATH), Task("b", POOL, PATH)
    assert first.scorer is not second.scorer
    assert first.loss_func is not second.loss_func


def test_plain_functions_serve_as_loss_and_output() -> None:
    task = Task(
        name="t",
        module_pool=nn.ModuleDict(POOL),
        op_sequence=PATH,
        loss_func=F.cross_entropy,
        output_func=partial(F.softmax, dim=1),
        scorer=Scorer(metrics=["accuracy"]),
    )
    probs = task.output_func(torch.tensor([[0.0, 2.0], [3.0, 1.0]]))
    assert task.output_func.preds(probs).tolist() == [1, 0]
    assert task.loss_func is F.cross_entropy


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ([], "has no operations"),
        ([Operation("tail", [("_input_", "x")])], "uses module 'tail'"),
        ([Operation("head", ["trunk"]), Operation("trunk", [("_input_", "x")])], "no earlier operation"),
        ([Operation("trunk", [("_input_", "x")]), Operation("trunk", [("_input_", "y")])], "two operations"),
        ([Operation("trunk", [("_input_", "x")], name="_input_")], "two operations named '_input_'"),
    ],
)
def test_a_path_that_does_not_hold_together_is_refused(path: list[Operation], message: str) -> None:
    with pytest.raises(TaskloomError, match=message):
        Task("t", POOL, path)
