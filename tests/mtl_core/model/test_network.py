"""What a change to a model does to the rest of it: nothing, to the last bit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from mtl_core import (
    ModuleConflictError,
    MultitaskClassifier,
    Operation,
    Task,
    TaskloomError,
    Trainer,
    module_weights,
)

from ..shapes import shape_loaders, shape_task

X_DICT = {
    f"{shape}_data": torch.randn(9, 2, generator=torch.Generator().manual_seed(3))
    for shape in ("circle", "square")
}


def trunk() -> nn.Module:
    """With buffers that training changes, and a layer that evaluation leaves out."""
    return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.ReLU())


def dotted_task() -> Task:
    """On the shared trunk's other field, through a module whose name has dots."""
    return Task(
        "dotted.task",
        {"base_mlp": trunk(), "head.v1": nn.Linear(4, 3)},
        [Operation("base_mlp", [("_input_", "square_data")]), Operation("head.v1", ["base_mlp"])],
    )


@pytest.fixture(scope="module")
def trained_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(4)
    model = untrained()
    Trainer(n_epochs=1, progress_bar=False).fit(model, shape_loaders())
    return model.state_dict()


def untrained() -> MultitaskClassifier:
    tasks = [shape_task("circle", trunk()), shape_task("square", trunk()), dotted_task()]
    return MultitaskClassifier(tasks, device="cpu")


@pytest.fixture
def model(trained_state: dict[str, torch.Tensor]) -> MultitaskClassifier:
    model = untrained()
    model.load_state_dict(trained_state)
    return model.eval()


def later_task() -> Task:
    return Task(
        "later",
        {"base_mlp": trunk(), "later.head": nn.Sequential(nn.Dropout(0.9), nn.Linear(4, 2))},
        [Operation("base_mlp", [("_input_", "circle_data")]), Operation("later.head", ["base_mlp"])],
    )


Surgery = Callable[[MultitaskClassifier], object]

SURGERIES: dict[str, tuple[Surgery, set[str], set[str]]] = {
    "add": (lambda m: m.add_task(later_task()), set(), set()),
    "remove": (lambda m: m.remove_task("circle_task"), {"circle_task"}, {"circle_head"}),
    "remove, then add": (
        lambda m: (m.remove_task("dotted.task"), m.add_task(later_task())),
        {"dotted.task"},
        {"head.v1"},
    ),
    "replace a head": (
        lambda m: m.replace_module("circle_head", nn.Linear(4, 7)),
        {"circle_task"},
        {"circle_head"},
    ),
    "rename a task": (lambda m: m.rename_task("circle_task", "round.task"), {"circle_task"}, set()),
    "rename a head": (lambda m: m.rename_module("head.v1", "head.v2"), set(), {"head.v1"}),
    "rename the trunk": (lambda m: m.rename_module("base_mlp", "trunk"), set(), {"base_mlp"}),
}


@pytest.mark.parametrize("name", SURGERIES)
def test_what_stays_keeps_its_tensors_and_its_predictions_to_the_bit(
    name: str, model: MultitaskClassifier
) -> None:
    operate, changed_tasks, changed_modules = SURGERIES[name]
    before, weights = model.infer(X_DICT, model.task_names), module_weights(model)
    operate(model)
    after, weights_after = model.infer(X_DICT, model.task_names), module_weights(model)
    stay = [task for task in before if task not in changed_tasks]
    assert stay
    assert all(torch.equal(before[task][kind], after[task][kind]) for task in stay for kind in before[task])
    kept = [key for key in weights if key.rpartition("/")[0] not in changed_modules]
    assert kept
    assert all(torch.equal(weights[key], weights_after[key]) for key in kept)


def test_modules_that_only_the_removed_task_has_go_with_it(model: MultitaskClassifier) -> None:
    assert model.remove_task("circle_task") == ["circle_head"]
    assert list(model.module_pool) == ["base_mlp", "square_head", "head.v1"]
    assert not any("circle" in key for key in model.state_dict())
    assert model.remove_task("dotted.task") == ["head.v1"]
    assert model.remove_task("square_task") == ["base_mlp", "square_head"]
    assert (model.task_names, len(model.module_pool), model.plan.nodes) == ([], 0, [])


def test_a_module_that_another_task_declares_without_calling_it_stays() -> None:
    spare = Task("spare", {"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)}, [Operation("a", [("_input_", "x")])])
    user = Task("user", {"b": nn.Linear(2, 2)}, [Operation("b", [("_input_", "x")])])
    model = MultitaskClassifier([user, spare], device="cpu")
    assert model.remove_task("user") == []
    assert list(model.module_pool) == ["b", "a"]


def test_a_removed_and_re_added_task_takes_the_shared_weights_as_they_are(model: MultitaskClassifier) -> None:
    shared = {key: value for key, value in module_weights(model).items() if key.startswith("base_mlp/")}
    model.remove_task("circle_task")
    model.add_task(shape_task("circle", trunk()))
    after = module_weights(model)
    assert all(torch.equal(after[key], value) for key, value in shared.items())


def test_a_replaced_head_is_what_its_task_answers_with(model: MultitaskClassifier) -> None:
    head = nn.Linear(4, 7)
    features = model(X_DICT, ["circle_task"])["base_mlp"]
    model.replace_module("circle_head", head)
    assert torch.equal(model(X_DICT, ["circle_task"])["circle_head"], head(features))
    assert model.tasks["circle_task"].module_pool["circle_head"] is head
    other = Task("other", {"circle_head": nn.Linear(4, 2)}, [Operation("circle_head", [("_input_", "x")])])
    with pytest.raises(ModuleConflictError, match="out_features is 7 in one and 2 in the other"):
        model.add_task(other)


def test_a_renamed_task_is_the_same_task_under_its_new_name(model: MultitaskClassifier) -> None:
    before = model.infer(X_DICT, ["circle_task"])["circle_task"]
    model.remap_labels = {"old_labels": "circle_task", "others": None}
    model.rename_task("circle_task", "round_task")
    assert model.task_names == ["round_task", "square_task", "dotted.task"]
    assert torch.equal(model.infer(X_DICT, ["round_task"])["round_task"]["probs"], before["probs"])
    assert model.remap_labels == {"old_labels": "round_task", "others": None}
    losses, _ = model.calculate_loss(
        X_DICT, {"round_task": torch.ones(9).long(), "circle_task": torch.ones(9).long()}
    )
    assert list(losses) == ["round_task"]
    model.remove_task("round_task")
    assert model.remap_labels == {"others": None}


def test_a_renamed_module_is_called_by_the_operations_that_called_it(model: MultitaskClassifier) -> None:
    model.rename_module("base_mlp", "trunk.v2")
    assert list(model.module_pool) == ["trunk.v2", "circle_head", "square_head", "head.v1"]
    assert [(op.name, op.module_name) for op in model.op_sequences["circle_task"]] == [
        ("base_mlp", "trunk.v2"),
        ("circle_head", "circle_head"),
    ]
    assert model.modules_of("square_task") == ["trunk.v2", "square_head"]
    assert "base_mlp" in model(X_DICT, ["circle_task"])
    with pytest.raises(
        ModuleConflictError, match=r"'trunk\.v2' is declared differently by tasks 'circle_task' and 'x'"
    ):
        model.add_task(Task("x", {"trunk.v2": nn.Linear(1, 1)}, [Operation("trunk.v2", [("_input_", "x")])]))


def test_tasks_given_to_a_model_stay_as_they_were() -> None:
    circle, square = shape_task("circle"), shape_task("square")
    own_trunk = square.module_pool["base_mlp"]
    model = MultitaskClassifier([circle, square], device="cpu")
    model.rename_module("base_mlp", "trunk")
    model.rename_task("square_task", "box")
    model.replace_module("square_head", nn.Linear(4, 5))
    assert square.name == "square_task"
    assert square.module_pool["base_mlp"] is own_trunk
    assert square.op_sequence[0].module_name == "base_mlp"
    assert model.tasks["box"].module_pool["trunk"] is model.module_pool["trunk"]
    again = MultitaskClassifier([circle, square], device="cpu")
    assert list(again.module_pool) == ["base_mlp", "circle_head", "square_head"]


@pytest.mark.parametrize(
    ("operate", "message"),
    [
        (lambda m: m.remove_task("x"), "has no task 'x'"),
        (lambda m: m.rename_task("x", "y"), "has no task 'x'"),
        (lambda m: m.rename_task("circle_task", "square_task"), "has a task 'square_task'"),
        (lambda m: m.replace_module("x", nn.Linear(1, 1)), "has no module 'x'"),
        (lambda m: m.rename_module("x", "y"), "has no module 'x'"),
        (lambda m: m.rename_module("circle_head", "head.v1"), "has a module 'head.v1'"),
        (lambda m: m.modules_of("x"), "has no task 'x'"),
        (lambda m: m.own_modules("x"), "has no task 'x'"),
        (lambda m: m.add_task({"name": "t"}), "unrecognized task"),
        (lambda m: m.add_task(broken_task()), "operation 'head' reads 'tail'"),
    ],
)
def test_what_cannot_be_done_changes_nothing(
    operate: Surgery, message: str, model: MultitaskClassifier
) -> None:
    before, nodes = module_weights(model), list(model.plan.nodes)
    with pytest.raises(TaskloomError, match=message):
        operate(model)
    assert list(module_weights(model)) == list(before)
    assert model.plan.nodes == nodes
    assert model.task_names == ["circle_task", "square_task", "dotted.task"]


def broken_task() -> Task:
    """Changed after it was made, to read an operation that there is not."""
    task = Task("t", {"head": nn.Linear(4, 2)}, [Operation("head", [("_input_", "x")])])
    task.op_sequence[0].inputs[0] = "tail"
    return task


def test_a_name_may_be_given_to_what_has_it_already(model: MultitaskClassifier) -> None:
    before = list(model.state_dict())
    model.rename_module("head.v1", "head.v1")
    model.rename_task("circle_task", "circle_task")
    assert list(model.state_dict()) == before
    assert model.task_names[0] == "circle_task"


def test_a_module_added_in_evaluation_mode_drops_nothing_out(model: MultitaskClassifier) -> None:
    model.add_task(later_task())
    first, second = (model.infer(X_DICT, ["later"])["later"]["logits"] for _ in range(2))
    assert torch.equal(first, second)
    assert not any(module.training for module in model.modules())


def test_own_modules_share_no_weight_with_another_tasks_path() -> None:
    tied = nn.Linear(4, 2)

    def task(name: str, head: nn.Module, unused: nn.Module) -> Task:
        return Task(
            name,
            {"trunk": nn.Linear(2, 4), f"{name}_head": head, f"{name}_unused": unused},
            [
                Operation(f"{name}_unused", [("_input_", "x")]),
                Operation("trunk", [("_input_", "x")]),
                Operation(f"{name}_head", ["trunk"]),
            ],
        )

    tasks = [
        task("a", tied, nn.Linear(2, 1)),
        task("b", tied, nn.Linear(2, 1)),
        task("c", nn.Linear(4, 2), tied),
    ]
    model = MultitaskClassifier(tasks, device="cpu")
    assert model.modules_of("a") == ["trunk", "a_head"]
    assert model.own_modules("a") == []
    assert model.own_modules("c") == ["c_head"]


def test_views_show_the_tasks_and_cannot_be_written(model: MultitaskClassifier) -> None:
    assert model.loss_funcs["circle_task"] is model.tasks["circle_task"].loss_func
    assert model.output_funcs["circle_task"] is model.tasks["circle_task"].output_func
    assert model.scorers["circle_task"] is model.tasks["circle_task"].scorer
    assert list(model.op_sequences) == model.task_names
    for view in (model.loss_funcs, model.output_funcs, model.scorers, model.op_sequences):
        with pytest.raises(TypeError):
            view["circle_task"] = None  # type: ignore[index]
