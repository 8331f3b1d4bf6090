"""Programs of torch.export: they answer as the model does, and what cannot be traced is named."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtl_core import ExportError, MultitaskClassifier, Operation, Task, TaskloomError, module_weights
from mtl_core.building.fields import FieldShape
from mtl_core.export import ServedTasks, export_program, save_program
from mtl_core.outputs import Identity

from ..modules.cases import CASES
from ..shapes import shape_task
from .models import MODELS, NOT_IN_ONNX, Exported, of_catalogue, of_outputs

FIELDS = {"x": FieldShape([3, 4], "float32")}


def one_task(*modules: nn.Module, **kwargs: Any) -> MultitaskClassifier:
    """A model of a task that calls modules on field x, one after the other, and is where the last one is."""
    path = [Operation("op0", [("_input_", "x")])]
    path += [Operation(f"op{i}", [f"op{i - 1}"]) for i in range(1, len(modules))]
    pool = {f"op{i}": module for i, module in enumerate(modules)}
    device = next((weight.device for weight in modules[-1].parameters()), "cpu")
    task = Task("t", pool, path, **{"output_func": Identity()} | kwargs)
    return MultitaskClassifier([task], device=device)


def assert_as_the_model(
    answer: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]], exported: Exported, tasks: list[str]
) -> None:
    for n in (1, 2, 7):
        batch = exported.batch(n)
        expected = exported.model.infer(batch, tasks)
        served = ServedTasks(exported.model, tasks)
        assert served.fields
        found = answer({name: batch[name] for name in served.fields})
        assert list(found) == served.output_names
        for task in tasks:
            has_classes = exported.model.tasks[task].output_func.has_classes
            names = {"logits": "logits", "probs": "probs" if has_classes else "outputs", "preds": "preds"}
            for kind, values in expected[task].items():
                ours = found[f"{task}.{names[kind]}"]
                assert ours.dtype == values.dtype
                if values.is_floating_point():
                    torch.testing.assert_close(ours, values, rtol=1e-5, atol=1e-5)
                else:
                    assert torch.equal(ours, values)


@pytest.mark.parametrize("name", MODELS)
def test_a_program_answers_as_the_model_does(name: str) -> None:
    exported = MODELS[name]()
    program = export_program(exported.model, exported.tasks, exported.fields)
    assert_as_the_model(program.module(), exported, exported.tasks)


def test_what_has_no_onnx_is_a_program_nonetheless() -> None:
    exported = of_catalogue([case for case in CASES if case.type in NOT_IN_ONNX])
    program = export_program(exported.model, exported.tasks, exported.fields)
    assert_as_the_model(program.module(), exported, exported.tasks)


@pytest.mark.parametrize(
    ("name", "task", "n_modules"), [("outputs", "grade", 2), ("sequences", "mood", 11), ("mmoe", "b", 3)]
)
def test_a_program_of_one_task_has_just_its_modules(name: str, task: str, n_modules: int) -> None:
    exported = MODELS[name]()
    program = export_program(exported.model, [task], exported.fields)
    assert_as_the_model(program.module(), exported, [task])
    served = ServedTasks(exported.model, [task])
    assert len(list(served.children())) == n_modules
    assert set(program.state_dict) == set(served.state_dict())


def test_what_tasks_share_is_computed_once() -> None:
    exported = of_outputs()
    nodes = [
        str(node.target)
        for node in export_program(exported.model, exported.tasks, exported.fields).graph.nodes
    ]
    assert nodes.count("aten.layer_norm.default") == 1
    assert nodes.count("aten.linear.default") == 1 + len(exported.tasks)


def test_a_saved_program_is_loaded_and_holds_nothing_pickled_and_no_path(tmp_path: Path) -> None:
    exported = of_outputs()
    path = tmp_path / "made" / "model.pt2"
    save_program(export_program(exported.model, exported.tasks, exported.fields), path)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt2"]
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    # Torch's own pickles are archives in this one; weights are their bytes, whatever those are.
    assert not [name for name, data in files.items() if data.startswith(b"PK")]
    assert not [name for name, data in files.items() if b'"use_pickle": true' in data]
    assert [name for name, data in files.items() if b'"use_pickle": false' in data]
    assert not [name for name, data in files.items() if b"mtl_core/" in data or b".py" in data]
    assert_as_the_model(torch.export.load(path).module(), exported, exported.tasks)


def test_the_model_stays_as_it_is_and_the_program_has_weights_of_its_own() -> None:
    exported = of_outputs()
    before = module_weights(exported.model)
    program = export_program(exported.model, exported.tasks, exported.fields)
    assert exported.model.training
    assert all(weight.requires_grad for weight in exported.model.parameters())
    assert all(torch.equal(weight, before[name]) for name, weight in module_weights(exported.model).items())
    batch = exported.batch(4)
    answered = program.module()(batch)
    with torch.no_grad():
        for weight in exported.model.parameters():
            weight.zero_()
    again = program.module()(batch)
    assert all(torch.equal(values, again[name]) for name, values in answered.items())
    assert not any(values.requires_grad for values in answered.values())


def test_weights_have_names_that_tell_the_module() -> None:
    exported = of_outputs()
    program = export_program(exported.model, ["yes-no"], exported.fields)
    assert {"m0_trunk_v1.0.weight", "m1_head_yes_no.bias"} <= set(program.state_dict)


def test_a_module_may_read_all_fields() -> None:
    class All(nn.Module):
        def forward(self, everything: dict[str, Any]) -> torch.Tensor:
            return everything["_input_"]["x"] + everything["_input_"]["y"]

    model = MultitaskClassifier([Task("t", {"all": All()}, [Operation("all", [])], output_func=Identity())])
    fields = {name: FieldShape([2], "float32") for name in ("x", "y")}
    batch = {"x": torch.ones(5, 2), "y": torch.ones(5, 2)}
    assert export_program(model, ["t"], fields).module()(batch)["t.preds"].tolist() == [[2.0, 2.0]] * 5


class DependsOnNumbers(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2 if x.sum() > 0 else x


class DependsOnRows(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(3, -1)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            one_task(nn.ReLU(), DependsOnNumbers()),
            r"^task 't': operation 'op1': cannot be traced: .*data-dependent",
        ),
        (one_task(nn.Linear(5, 2)), r"^task 't': operation 'op0': cannot be traced: .*same reduction dim"),
        (one_task(DependsOnRows()), r"^task 't': cannot be traced for any number of rows"),
        (one_task(nn.LSTM(4, 2)), r"^task 't': its last operation answers a tuple, and not one tensor$"),
        (
            one_task(nn.ReLU(), output_func=lambda logits: logits @ torch.ones(9, 9)),
            r"^task 't': its output function failed: ",
        ),
    ],
    ids=["numbers", "shape", "rows", "tuple", "output"],
)
def test_what_cannot_be_traced_is_named(model: MultitaskClassifier, message: str) -> None:
    with pytest.raises(ExportError, match=message) as caught:
        export_program(model, ["t"], FIELDS)
    assert len(str(caught.value)) < 400
    assert "\n" not in str(caught.value)
    assert caught.value.task_name == "t"


def test_tasks_and_fields_that_are_not_there_are_named() -> None:
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    with pytest.raises(TaskloomError, match="has no task 'square_task'; it has"):
        export_program(model, ["square_task"], {})
    with pytest.raises(TaskloomError, match="no task is named"):
        export_program(model, [], {})
    with pytest.raises(ExportError, match="read field 'circle_data', but what it looks like is not given"):
        export_program(model, ["circle_task"], FIELDS)
    with pytest.raises(ExportError, match="the shape of field 'circle_data' is not known"):
        export_program(model, ["circle_task"], {"circle_data": FieldShape(None, "float32")})
