"""ONNX files: onnxruntime answers as the model does, and what has no ONNX is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from mtl_core import ExportError, MultitaskClassifier, Operation, Task
from mtl_core.building.fields import FieldShape
from mtl_core.export import check_onnx, export_onnx
from mtl_core.export.onnx import OPSET, require
from mtl_core.outputs import Identity

from ..modules.cases import CASES
from ..shapes import shape_task
from .models import MODELS, NOT_IN_ONNX, Exported, of_catalogue, of_outputs
from .test_program import FIELDS, DependsOnNumbers, assert_as_the_model, one_task

# Of the catalogue, what is not among the models' modules and is no plain function of each number.
SAMPLE = (  # noqa: SIM905 One string reads better than a line for each.
    "Bilinear Unfold Fold Conv3d ConvTranspose2d InstanceNorm1d RMSNorm GroupNorm LocalResponseNorm AlphaDropout RReLU "
    "PReLU GLU EmbeddingBag RNN LPPool1d AdaptiveAvgPool2d AdaptiveMaxPool2d ReflectionPad2d Upsample PixelShuffle "
    "CosineSimilarity Permute JointProbability"
).split()


def run(path: Path) -> Any:
    """What onnxruntime answers of a file, by name."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def answer(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        assert [given.name for given in session.get_inputs()] == list(batch)
        answers = session.run(None, {name: values.numpy() for name, values in batch.items()})
        return dict(zip(names, map(torch.from_numpy, answers), strict=True))

    return answer


def assert_exported(exported: Exported, tasks: list[str], path: Path) -> None:
    export_onnx(exported.model, tasks, exported.fields, path)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    assert_as_the_model(run(path), exported, tasks)
    check = check_onnx(path, exported.model, tasks, exported.fields)
    assert check.rows == [1, 7]
    assert check.largest_difference < 1e-5
    assert check.differing_predictions == 0


@pytest.mark.parametrize("name", ["outputs", "sequences", "slices", "mmoe", "dselect_k", "cross_stitch"])
def test_onnxruntime_answers_as_the_model_does(name: str, tmp_path: Path) -> None:
    exported = MODELS[name]()
    assert_exported(exported, exported.tasks, tmp_path / "model.onnx")


def test_onnxruntime_answers_for_modules_of_the_catalogue(tmp_path: Path) -> None:
    exported = of_catalogue([case for case in CASES if case.type in SAMPLE])
    assert len(exported.tasks) == len(SAMPLE)
    assert_exported(exported, exported.tasks, tmp_path / "model.onnx")


def test_a_file_of_one_task_says_what_it_takes_and_answers_and_no_path(tmp_path: Path) -> None:
    exported, path = of_outputs(), tmp_path / "model.onnx"
    assert_exported(exported, ["grade"], path)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", OPSET)]
    rows = [
        value.type.tensor_type.shape.dim[0].dim_param for value in (*model.graph.input, *model.graph.output)
    ]
    assert len(set(rows)) == 1
    assert rows[0]
    assert b".py" not in path.read_bytes()


def test_fields_may_be_called_as_weights_and_numbers_on_the_way(tmp_path: Path) -> None:
    names = ["linear", "m0_trunk.weight", "m1_head.bias", "softmax"]
    tasks = [
        Task(name, {"trunk": nn.Linear(2, 2), "head": nn.Linear(2, 2)}, path)
        for name, path in (
            (name, [Operation("trunk", [("_input_", name)]), Operation("head", ["trunk"])]) for name in names
        )
    ]
    model = MultitaskClassifier(tasks, device="cpu")
    fields = {name: FieldShape([2], "float32") for name in names}
    export_onnx(model, names, fields, tmp_path / "model.onnx")
    assert check_onnx(tmp_path / "model.onnx", model, names, fields, [2]).largest_difference < 1e-5


def test_the_check_tells_another_model_from_this_one(tmp_path: Path) -> None:
    fields = {"circle_data": FieldShape([2], "float32")}
    model = MultitaskClassifier([shape_task("circle")], device="cpu")
    export_onnx(model, ["circle_task"], fields, tmp_path / "model.onnx")
    with torch.no_grad():
        model.module_pool["circle_head"].get_parameter("bias").add_(torch.tensor([1.0, -1.0]) * 100)
    check = check_onnx(tmp_path / "model.onnx", model, ["circle_task"], fields, rows=[3])
    assert check.rows == [3]
    assert check.largest_difference > 0.9
    assert check.differing_predictions >= 1
    (tmp_path / "model.onnx").write_bytes(b"no model")
    with pytest.raises(ExportError, match=r"^onnxruntime cannot run '.*model.onnx': "):
        check_onnx(tmp_path / "model.onnx", model, ["circle_task"], fields)


def test_what_has_no_onnx_is_named(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    pooled = of_catalogue([case for case in CASES if case.type in NOT_IN_ONNX])
    with pytest.raises(
        ExportError, match=r"operation 'AdaptiveAvgPool3d': torch knows no ONNX for aten\._adaptive"
    ):
        export_onnx(pooled.model, pooled.tasks, pooled.fields, path)
    bessel = one_task(nn.ReLU(), output_func=torch.special.bessel_j0)
    with pytest.raises(ExportError, match=r"^task 't': torch knows no ONNX for prims\.bessel_j0\.default$"):
        export_onnx(bessel, ["t"], FIELDS, path)
    with pytest.raises(ExportError, match="operation 'op0': cannot be traced"):
        export_onnx(one_task(DependsOnNumbers()), ["t"], FIELDS, path)
    assert not list(tmp_path.iterdir())


def test_a_field_that_is_called_as_an_output_is_refused(tmp_path: Path) -> None:
    task = Task("t", {"m": nn.ReLU()}, [Operation("m", [("_input_", "t.preds")])], output_func=Identity())
    with pytest.raises(ExportError, match=r"field 't\.preds' is called as an output"):
        export_onnx(
            MultitaskClassifier([task]), ["t"], {"t.preds": FieldShape([2], "float32")}, tmp_path / "m.onnx"
        )


def test_weights_beyond_one_file_are_refused_before_anything_is_made(tmp_path: Path) -> None:
    with torch.device("meta"):
        large = nn.Linear(2**16, 2**14)
    model = one_task(large)
    with pytest.raises(ExportError, match=r"the weights are 4,295,\d+,\d+ bytes; one ONNX file holds 2,"):
        export_onnx(model, ["t"], {"x": FieldShape([2**16], "float32")}, tmp_path / "model.onnx")


def test_a_package_that_is_missing_is_named_with_what_to_install() -> None:
    with pytest.raises(
        ExportError, match=r"needs the package 'no_such_package', .* pip install 'taskloom\[onnx\]'"
    ):
        require("no_such_package", "taskloom[onnx]")
