"""Random graphs of operations over several tasks: a plan must compute what each task alone would."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mtl_core import MultitaskClassifier, Operation, OperationError, Task
from mtl_core.model.plan import ExecutionPlan
from mtl_core.modules.combine import Add

from ..shapes import shape_task

SIZE = 3


class Halves(nn.Module):
    """Answers a tuple, to be read by index."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, 2 * SIZE)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self.linear(x).chunk(2, dim=1)


class Named(nn.Module):
    """Answers a dict, to be read by key."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(SIZE, SIZE)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"up": self.linear(x), "down": -self.linear(x)}


class OfFields(nn.Module):
    """Takes the dict of all fields."""

    def forward(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
        return fields["x"] - 2 * fields["y"]


class OfEverything(nn.Module):
    """Takes the fields and every earlier output, by its name."""

    def forward(self, outputs: dict[str, Any]) -> torch.Tensor:
        total = outputs["_input_"]["x"]
        for position, name in enumerate(sorted(outputs.keys() - {"_input_"})):
            output = outputs[name]
            parts = (
                output.values()
                if isinstance(output, dict)
                else output
                if isinstance(output, tuple)
                else [output]
            )
            total = total + torch.tanh(sum(parts) * (position + 1))
        return total


def modules() -> dict[str, nn.Module]:
    torch.manual_seed(7)
    linears = {f"linear{i}": nn.Sequential(nn.Linear(SIZE, SIZE), nn.Tanh()) for i in range(3)}
    whole = {"fields": OfFields(), "everything": OfEverything()}
    return {**linears, "add": Add(), "halves": Halves(), "named": Named(), **whole}


@st.composite
def paths(draw: st.DrawFn) -> list[list[Operation]]:
    """Paths of one to three tasks, drawn from one small set of modules and fields so that parts of them meet."""
    all_paths: list[list[Operation]] = []
    for _ in range(draw(st.integers(1, 3))):
        tensors: list[Any] = [("_input_", "x"), ("_input_", "y")]
        path: list[Operation] = []
        for position in range(draw(st.integers(1, 6))):
            name = f"op{position}"
            module = draw(st.sampled_from(list(modules())))
            n_inputs = {"add": draw(st.integers(1, 3)), "everything": 0}.get(module, 1)
            inputs = [draw(st.sampled_from(tensors)) for _ in range(n_inputs)]
            path.append(Operation(module, ["_input_"] if module == "fields" else inputs, name))
            tensors += {"halves": [(name, 0), (name, 1)], "named": [(name, "up"), (name, "down")]}.get(
                module, [name]
            )
        path.append(Operation("linear0", [tensors[-1]], "out"))
        all_paths.append(path)
    return all_paths


def naive(pool: dict[str, nn.Module], path: list[Operation], X_dict: dict[str, torch.Tensor]) -> torch.Tensor:
    outputs: dict[str, Any] = {"_input_": X_dict}

    def value(entry: Any) -> Any:
        return outputs[entry] if isinstance(entry, str) else outputs[entry[0]][entry[1]]

    for op in path:
        inputs = [value(entry) for entry in op.inputs] or [dict(outputs)]
        outputs[op.name] = pool[op.module_name](*inputs)
    return outputs[path[-1].name]


@settings(max_examples=60, deadline=None)
@given(paths())
def test_outputs_and_gradients_are_those_of_each_task_alone(all_paths: list[list[Operation]]) -> None:
    pool = modules()
    tasks = [
        Task(f"t{i}", {op.module_name: pool[op.module_name] for op in path}, path)
        for i, path in enumerate(all_paths)
    ]
    model = MultitaskClassifier(tasks, device="cpu")
    X_dict = {"x": torch.randn(4, SIZE), "y": torch.randn(4, SIZE)}

    together = model(X_dict, model.task_names)
    sum(together[task.name, "out"].square().sum() for task in tasks).backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    model.zero_grad()
    alone = [naive(pool, path, X_dict) for path in all_paths]
    sum(output.square().sum() for output in alone).backward()

    for task, output in zip(tasks, alone, strict=True):
        torch.testing.assert_close(together[task.name, "out"], output)
    for name, parameter in model.named_parameters():
        if parameter.grad is None:
            assert gradients[name] is None
        else:
            torch.testing.assert_close(gradients[name], parameter.grad)


@settings(max_examples=40, deadline=None)
@given(paths())
def test_no_two_nodes_compute_the_same_and_inputs_come_first(all_paths: list[list[Operation]]) -> None:
    plan = ExecutionPlan()
    for i, path in enumerate(all_paths):
        plan.add_task(Task(f"t{i}", modules(), path))
    assert len(set(plan.nodes)) == len(plan.nodes)
    assert all(needed < i for i, node in enumerate(plan.nodes) for needed in node.needs())
    for i in range(len(all_paths)):
        assert set(plan.schedule([f"t{i}"])) <= set(plan.operations[f"t{i}"].values())


def test_one_operation_name_means_what_its_own_task_says() -> None:
    circle, square = shape_task("circle"), shape_task("square")
    model = MultitaskClassifier([circle, square], device="cpu")
    X_dict = {"circle_data": torch.randn(5, 2), "square_data": torch.randn(5, 2)}
    outputs = model(X_dict, ["circle_task", "square_task"])
    trunk = model.module_pool["base_mlp"]
    for shape in ("circle", "square"):
        assert torch.equal(outputs[f"{shape}_task", "base_mlp"], trunk(X_dict[f"{shape}_data"]))


def test_equal_operations_run_once_whatever_their_names() -> None:
    trunk = nn.Linear(2, 2)
    tasks = [
        Task(
            f"t{i}",
            {"trunk": trunk, f"h{i}": nn.Linear(2, 2)},
            [Operation("trunk", [("_input_", "x")], f"a{i}"), Operation(f"h{i}", [f"a{i}"])],
        )
        for i in range(3)
    ]
    model = MultitaskClassifier(tasks, device="cpu")
    calls: list[int] = []
    trunk.register_forward_hook(lambda *_: calls.append(1))
    model({"x": torch.zeros(1, 2)}, model.task_names)
    assert len(calls) == 1


def test_only_what_the_wanted_tasks_need_is_run() -> None:
    unused = nn.Linear(2, 2)
    task = Task(
        "t",
        {"unused": unused, "m": nn.Linear(2, 2)},
        [Operation("unused", [("_input_", "x")]), Operation("m", [("_input_", "x")])],
    )
    calls: list[int] = []
    unused.register_forward_hook(lambda *_: calls.append(1))
    outputs = MultitaskClassifier([task], device="cpu")({"x": torch.zeros(1, 2)}, ["t"])
    assert list(outputs) == ["_input_", "m"]
    assert not calls


def test_an_operation_without_inputs_gets_fields_and_earlier_outputs() -> None:
    class Everything(nn.Module):
        def forward(self, outputs: dict[str, Any]) -> torch.Tensor:
            return outputs["first"] + outputs["_input_"]["x"]

    task = Task(
        "t",
        {"double": nn.Identity(), "all": Everything()},
        [Operation("double", [("_input_", "x")], "first"), Operation("all", [])],
    )
    outputs = MultitaskClassifier([task], device="cpu")({"x": torch.ones(2, 1)}, ["t"])
    assert outputs["all"].tolist() == [[2.0], [2.0]]


def test_the_field_dict_is_what_a_bare_input_reads() -> None:
    class Sum(nn.Module):
        def forward(self, fields: dict[str, torch.Tensor]) -> torch.Tensor:
            return fields["x"] + fields["y"]

    task = Task("t", {"sum": Sum()}, [Operation("sum", ["_input_"])])
    outputs = MultitaskClassifier([task], device="cpu")({"x": torch.ones(1, 1), "y": torch.ones(1, 1)}, ["t"])
    assert outputs["sum"].item() == 2


def test_a_failing_operation_is_named_with_its_task_and_module() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    with pytest.raises(
        OperationError, match=r"task 'circle_task': operation 'base_mlp' \(module 'base_mlp'\)"
    ):
        model({"circle_data": torch.zeros(1, 3)}, ["circle_task"])
    with pytest.raises(OperationError, match="the batch has no field 'circle_data'"):
        model({"square_data": torch.zeros(1, 2)}, ["circle_task"])
