from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, SpecError, TaskloomError, Trainer
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import Limits, build_tasks, check_task, resolve_task
from mtl_core.data import UNLABELLED
from mtl_core.losses import LOSSES, MeanAbsoluteError, MeanSquaredError
from mtl_core.outputs import OUTPUTS, Identity
from mtl_core.scaling import ScaledLoss, ScaledOutput, TargetScale, fit_target_scale
from mtl_core.specs import TaskSpec

SCALE = TargetScale(mean=[100.0], std=[20.0])


def spec(n_out: int = 1, **changes: Any) -> TaskSpec:
    body: dict[str, Any] = {
        "name": "t",
        "module_pool": {"m": {"type": "Linear", "in_features": 3, "out_features": n_out}},
        "op_sequence": [{"module_name": "m", "inputs": [["_input_", "x"]]}],
        "kind": "regression",
    }
    return TaskSpec.model_validate(body | changes)


def test_the_scale_of_each_value_leaves_out_what_is_not_given() -> None:
    labels = torch.tensor([[1.0, 5.0], [3.0, UNLABELLED], [math.nan, 5.0]])
    assert fit_target_scale(labels) == TargetScale(mean=[2.0, 5.0], std=[1.0, 1.0])
    assert fit_target_scale(torch.tensor([2, 4, -1])) == TargetScale(mean=[3.0], std=[1.0])
    with pytest.raises(TaskloomError, match="no label"):
        fit_target_scale(torch.tensor([[1.0, math.nan]]))
    with pytest.raises(TaskloomError, match="finite"):
        fit_target_scale(torch.tensor([1.0, math.inf]))


@pytest.mark.parametrize("value", [0.1, -7.0, 1e-40, 3.4e38])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_labels_that_are_all_equal_are_only_shifted(value: float, dtype: torch.dtype) -> None:
    scale = fit_target_scale(torch.full((3,), value, dtype=dtype))
    assert scale.mean == pytest.approx([torch.tensor(value, dtype=dtype).item()])
    assert scale.std == [1.0]


def test_a_mean_far_from_zero_costs_no_precision() -> None:
    labels = torch.tensor([1e6 + 1, 1e6 + 3])
    assert fit_target_scale(labels) == TargetScale(mean=[1e6 + 2], std=[1.0])
    loss = ScaledLoss(MeanSquaredError(), TargetScale(mean=[1e6], std=[0.5]))
    assert loss(torch.tensor([2.0, 6.0]), labels).item() == 0


def test_the_loss_is_that_of_scaled_labels_and_outputs_come_back_in_their_own_units() -> None:
    outputs, labels = torch.tensor([[0.5], [1.0]]), torch.tensor([120.0, 100.0])
    weights = torch.tensor([3.0, 1.0])
    loss, output = ScaledLoss(MeanAbsoluteError(), SCALE), ScaledOutput(Identity(), SCALE)
    assert loss(outputs, labels).item() == pytest.approx((0.5 + 1.0) / 2)
    assert loss(outputs, labels, weights).item() == pytest.approx((3 * 0.5 + 1.0) / 4)
    assert output(outputs).tolist() == [[110.0], [120.0]]
    assert output.preds(output(outputs)).tolist() == [110.0, 120.0]
    assert not output.has_classes


def test_a_value_that_lands_on_minus_one_still_counts_and_a_missing_one_does_not() -> None:
    loss = ScaledLoss(MeanAbsoluteError(), SCALE)
    outputs = torch.zeros(3, 1)
    # 80 is one deviation below the mean; the label of -1 is none.
    assert loss(outputs, torch.tensor([80.0, 100.0, UNLABELLED])).item() == pytest.approx(0.5, abs=1e-6)
    assert loss(outputs, torch.tensor([80, 100, UNLABELLED])).item() == pytest.approx(0.5, abs=1e-6)
    # In half precision much comes to stand there.
    near = torch.tensor([79.99, 80.0, 80.01])
    assert loss(outputs.bfloat16(), near).item() == pytest.approx(1, abs=1e-2)


def test_vectors_and_quantiles_are_scaled_value_by_value() -> None:
    scale = TargetScale(mean=[0.0, 10.0], std=[1.0, 5.0])
    vector = ScaledOutput(Identity(), scale)
    assert vector(torch.ones(1, 2)).tolist() == [[1.0, 15.0]]
    levels = {"type": "quantiles", "quantiles": [0.1, 0.5, 0.9]}
    of_both = ScaledOutput(OUTPUTS.build(levels), scale)
    raw = torch.tensor([[[-1.0, 0.0, 1.0], [-1.0, 0.0, 2.0]]])
    assert of_both(raw).tolist() == [[[-1.0, 0.0, 1.0], [5.0, 10.0, 20.0]]]
    assert of_both.preds(of_both(raw)).tolist() == [[0.0, 10.0]]
    matrix = ScaledOutput(Identity(), TargetScale(mean=[0.0, 1, 2, 3, 4, 5], std=[1.0] * 6))
    assert matrix(torch.zeros(1, 2, 3)).tolist() == [[[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]]
    of_one = ScaledOutput(OUTPUTS.build(levels), SCALE)
    assert of_one.preds(of_one(torch.tensor([[-1.0, 0.5, 1.0]]))).tolist() == [110.0]


def test_labels_of_another_number_of_values_are_refused() -> None:
    scale = TargetScale(mean=[0.0, 10.0], std=[1.0, 5.0])
    with pytest.raises(ValueError, match="has 2 values"):
        ScaledLoss(MeanSquaredError(), scale)(torch.zeros(4, 3), torch.zeros(4, 3))
    with pytest.raises(ValueError, match="std has 1"):
        TargetScale(mean=[0.0, 1.0], std=[1.0])


def test_an_open_scale_is_filled_in_by_resolving_and_refused_by_building() -> None:
    open_spec = spec()
    assert open_spec.target_scaling == "standard"
    check_task(open_spec, Limits())
    with pytest.raises(SpecError, match="resolve the task first"):
        build_tasks([open_spec])
    with pytest.raises(SpecError, match="scale of the labels is not known"):
        resolve_task(open_spec, {}, Limits())
    resolved = resolve_task(open_spec, {}, Limits(), SCALE)
    assert resolved.target_scaling == SCALE
    assert TaskSpec.model_validate(resolved.written_out()).target_scaling == SCALE
    (task,) = build_tasks([resolved])
    assert isinstance(task.loss_func, ScaledLoss)
    lazy = spec(module_pool={"m": {"type": "LazyLinear", "out_features": 1}})
    both = resolve_task(lazy, {"x": FieldShape([7], "float32")}, Limits(), SCALE)
    assert (both.target_scaling, both.module_pool["m"]["in_features"]) == (SCALE, 7)


@pytest.mark.parametrize(
    ("changes", "detail"),
    [
        ({"kind": "binary", "target_scaling": "standard"}, "the loss binary_cross_entropy takes its labels"),
        ({"kind": "count", "target_scaling": SCALE.model_dump()}, "the loss poisson takes"),
        ({"output": "sigmoid"}, "the output sigmoid answers classes"),
    ],
)
def test_classes_and_counts_have_no_scale(changes: dict[str, Any], detail: str) -> None:
    with pytest.raises(SpecError) as refused:
        check_task(spec(**changes), Limits())
    assert [fault.pointer for fault in refused.value.faults] == ["/target_scaling"]
    assert detail in str(refused.value)


@pytest.mark.parametrize("loss", [name for name in LOSSES.entries if LOSSES.entries[name].of_any_scale])  # type: ignore[attr-defined]
@settings(max_examples=5, deadline=None)
@given(shift=st.floats(-1e3, 1e3), factor=st.floats(0.5, 500), seed=st.integers(0, 99))
def test_predictions_follow_the_units_of_the_labels(
    loss: str, shift: float, factor: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(40, 3, generator=generator)
    y = x.sum(dim=1) + 0.3 * torch.randn(40, generator=generator)

    def predicted(labels: torch.Tensor) -> torch.Tensor:
        n_out = 3 if loss == "pinball" else 1
        output = "quantiles" if loss == "pinball" else "identity"
        resolved = resolve_task(
            spec(n_out, loss=loss, output=output, metrics=["mae"]), {}, Limits(), fit_target_scale(labels)
        )
        model = MultitaskClassifier(build_tasks([resolved], seed=1), device="cpu")
        loader = DictDataLoader(DictDataset("d", "train", {"x": x}, {"t": labels}), batch_size=20)
        Trainer(n_epochs=2, lr=0.05, progress_bar=False, batch_scheduler="sequential").fit(model, [loader])
        return model.infer({"x": x}, ["t"])["t"]["preds"]

    assert torch.allclose(
        predicted(y * factor + shift), predicted(y) * factor + shift, atol=1e-2 * factor, rtol=1e-3
    )
