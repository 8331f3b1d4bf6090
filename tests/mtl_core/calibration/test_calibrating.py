"""Calibrated models: probabilities come nearer to what comes true, and all else stays as it was."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_core import (
    Calibration,
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    OperationError,
    Scorer,
    TaskloomError,
    Trainer,
    calibrate,
    load_module_weights,
    module_weights,
    read_bundle,
    write_bundle,
)
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import build_tasks
from mtl_core.calibration.specs import temperature_module
from mtl_core.export import check_onnx, export_onnx, export_program
from mtl_core.specs import TaskSpec

from ..export.models import RIGHT, Exported
from ..shapes import shape_spec

N, WIDTH = 2_000, 4
FIELDS = {"x": FieldShape([WIDTH], "float32")}
HEADS: dict[str, tuple[int, Any]] = {
    "kind": (3, "multiclass"),
    "yes": (1, "binary"),
    "tags": (2, "multilabel"),
    "price": (1, {"type": "regression", "huber_delta": 1.0}),
}
FACTORS = {"kind": 4.0, "yes": 0.4, "tags": 3.0, "price": 1.0}
"""How much too sure of itself each head is."""


def specs_of(*names: str) -> list[TaskSpec]:
    return [
        TaskSpec.model_validate(
            {
                "name": name,
                "kind": HEADS[name][1],
                "target_scaling": None,
                "module_pool": {
                    "trunk": {"type": "Linear", "in_features": WIDTH, "out_features": WIDTH},
                    f"{name}_head": {"type": "Linear", "in_features": WIDTH, "out_features": HEADS[name][0]},
                },
                "op_sequence": [
                    {"module_name": "trunk", "inputs": [["_input_", "x"]]},
                    {"module_name": f"{name}_head", "inputs": ["trunk"]},
                ],
            }
        )
        for name in names
    ]


def data(seed: int, *names: str, n: int = N, split: str = "valid") -> DictDataset:
    """Labels drawn as a model of :func:`model_of` says, before it becomes too sure."""
    x = torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(seed))
    drawn = torch.Generator().manual_seed(seed + 1)
    honest = model_of(specs_of(*names), dict.fromkeys(names, 1.0)).infer({"x": x}, names, ["probs"])
    labels: dict[str, torch.Tensor] = {}
    for name in names:
        probs = honest[name]["probs"]
        if name == "kind":
            labels[name] = torch.multinomial(probs, 1, generator=drawn).squeeze(1)
        elif name == "price":
            labels[name] = probs.squeeze(1)
        else:
            labels[name] = torch.bernoulli(probs, generator=drawn)
    return DictDataset("d", split, {"x": x}, labels)


def loader(dataset: DictDataset, shuffle: bool = False) -> DictDataLoader:
    return DictDataLoader(dataset, batch_size=128, shuffle=shuffle)


def model_of(specs: list[TaskSpec], factors: dict[str, float]) -> MultitaskClassifier:
    model = MultitaskClassifier(build_tasks(specs, seed=3), name="m", device="cpu")
    with torch.no_grad():
        for parameter in model.module_pool["trunk"].parameters():
            parameter.mul_(4)
        for name, factor in factors.items():
            for parameter in model.module_pool[f"{name}_head"].parameters():
                parameter.mul_(factor)
    return model


def trained(*names: str) -> tuple[MultitaskClassifier, list[TaskSpec]]:
    specs = specs_of(*names)
    return model_of(specs, {name: FACTORS[name] for name in names}), specs


def temperatures_in(calibration: Calibration, name: str) -> list[float]:
    (spec,) = (spec for spec in calibration.specs if spec.name == name)
    (values,) = calibration.model.module_pool[temperature_module(spec) or ""].buffers()
    return values.tolist()


@pytest.mark.parametrize("per_class", [False, True])
def test_probabilities_become_as_sure_as_they_are_right(per_class: bool) -> None:
    names = ["kind", "yes", "tags"]
    model, specs = trained(*names)
    state = {key: value.clone() for key, value in model.state_dict().items()}
    found = calibrate(model, specs, [loader(data(1, *names), shuffle=True)], per_class=per_class)
    assert found.left_out == {}
    assert [spec.name for spec in found.specs] == names
    test = [loader(data(5, *names, n=8_000))]
    metrics = ["log_loss", "calibration_error"]
    for name, of_task in found.tasks.items():
        n_temperatures = HEADS[name][0] if per_class else 1
        assert of_task.temperatures == pytest.approx([FACTORS[name]] * n_temperatures, rel=0.25)
        assert of_task.n_labels == N * (2 if name == "tags" else 1)
        assert of_task.after.log_loss < of_task.before.log_loss
        assert of_task.after.calibration_error < of_task.before.calibration_error / 2
        assert of_task.after.classwise_calibration_error < of_task.before.classwise_calibration_error / 2
        assert temperatures_in(found, name) == of_task.temperatures
    # On data that they were not fitted to, too.
    for each in (model, found.model):
        for name in ("kind", "yes"):
            each.tasks[name].scorer = Scorer(metrics=metrics)
    before, after = model.score(test), found.model.score(test)
    for name in ("kind", "yes"):
        assert after[f"{name}/d/valid/log_loss"] < before[f"{name}/d/valid/log_loss"]
        assert after[f"{name}/d/valid/calibration_error"] < before[f"{name}/d/valid/calibration_error"] / 2
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


def test_with_one_temperature_predictions_stay_as_they_are() -> None:
    names = ["kind", "yes", "tags"]
    model, specs = trained(*names)
    found = calibrate(model, specs, [loader(data(1, *names))])
    x = {"x": torch.randn(50_000, WIDTH) * 2}
    before, after = model.infer(x, names), found.model.infer(x, names)
    for name in names:
        assert torch.equal(after[name]["preds"], before[name]["preds"])
        temperature = torch.tensor(found.tasks[name].temperatures)
        assert torch.equal(after[name]["logits"], before[name]["logits"] / temperature)
        assert not torch.equal(after[name]["probs"], before[name]["probs"])


def test_what_is_reported_is_what_the_models_score() -> None:
    model, specs = trained("kind", "yes")
    split = [loader(data(1, "kind", "yes"))]
    found = calibrate(model, specs, split, per_class=True)
    names = ["log_loss", "calibration_error", "classwise_calibration_error"]
    for each, when in ((model, "before"), (found.model, "after")):
        for name in ("kind", "yes"):
            each.tasks[name].scorer = Scorer(metrics=names)
        scores = each.score(split)
        for name, of_task in found.tasks.items():
            reported = getattr(of_task, when)
            for metric in names:
                assert getattr(reported, metric) == pytest.approx(
                    scores[f"{name}/d/valid/{metric}"], rel=1e-4
                )


def test_labels_of_several_loaders_count_together_and_missing_ones_nowhere() -> None:
    model, specs = trained("kind", "tags")
    whole = data(1, "kind", "tags")
    whole.Y_dict["kind"][::3] = -1
    whole.Y_dict["tags"][::4, 0] = math.nan
    parts = [
        DictDataset(name, "valid", {"x": whole.X_dict["x"][at]}, {t: y[at] for t, y in whole.Y_dict.items()})
        for name, at in (("a", slice(0, 700)), ("b", slice(700, N)))
    ]
    # Labels for a task that the model lacks, and none at all.
    parts.append(DictDataset("c", "valid", {"x": torch.zeros(3, WIDTH)}, {"other": torch.zeros(3)}))
    together = calibrate(model, specs, [loader(whole)], per_class=True)
    apart = calibrate(model, specs, [loader(part) for part in parts], per_class=True)
    for name, n_labels in (("kind", N - math.ceil(N / 3)), ("tags", 2 * N - N // 4)):
        assert apart.tasks[name].n_labels == together.tasks[name].n_labels == n_labels
        assert apart.tasks[name].temperatures == pytest.approx(together.tasks[name].temperatures, rel=1e-4)
    assert apart.specs == together.specs


def test_a_second_calibration_replaces_the_first() -> None:
    model, specs = trained("kind", "yes")
    split = [loader(data(1, "kind", "yes"))]
    first = calibrate(model, specs, split, per_class=True)
    again = calibrate(first.model, first.specs, split, ["kind"])
    direct = calibrate(model, specs, split, ["kind"])
    assert again.tasks["kind"].temperatures == direct.tasks["kind"].temperatures
    assert again.tasks["kind"].before == first.tasks["kind"].after
    assert again.specs[0] == direct.specs[0]
    # What was not wanted keeps what it had.
    assert again.specs[1] == first.specs[1]
    assert temperatures_in(again, "yes") == first.tasks["yes"].temperatures
    same = calibrate(again.model, again.specs, split)
    assert same.specs == calibrate(model, specs, split).specs
    assert same.tasks["kind"].temperatures == again.tasks["kind"].temperatures


def test_tasks_that_cannot_be_calibrated_are_left_as_they_are_and_it_is_said_why() -> None:
    model, specs = trained("kind", "yes", "tags", "price")
    split = data(1, "kind", "yes", "tags", "price", n=200)
    split.Y_dict["yes"] = torch.full((200,), -1.0)
    split.Y_dict["tags"] = torch.zeros(200)
    found = calibrate(model, specs, [loader(split)])
    assert found.left_out.keys() == {"yes", "tags", "price"}
    assert found.left_out["price"] == "its output function 'identity' is neither softmax nor sigmoid"
    assert found.left_out["yes"] == "no example is labelled"
    assert "do not suit" in found.left_out["tags"]
    assert list(found.tasks) == ["kind"]
    assert found.specs[1:] == specs[1:]
    x = {"x": torch.randn(20, WIDTH)}
    others = ["yes", "tags", "price"]
    before, after = model.infer(x, others), found.model.infer(x, others)
    assert all(torch.equal(after[name]["probs"], before[name]["probs"]) for name in others)
    nothing = calibrate(model, specs, [], ["kind"])
    assert nothing.left_out == {"kind": "no example is labelled"}
    assert nothing.specs == specs


def test_slices_are_left_to_the_tasks_that_have_them() -> None:
    specs = [TaskSpec.model_validate(shape_spec("circle", slices=[RIGHT])), *specs_of("kind")]
    model = MultitaskClassifier(build_tasks(specs, seed=1), device="cpu")
    found = calibrate(model, specs, [loader(data(1, "kind"))])
    assert list(found.tasks) == ["kind"]
    assert found.left_out == {"circle_task": "it has slices, which need its path to end in its head"}
    fields = {"circle_data": torch.randn(9, 2), "x": torch.randn(9, WIDTH)}
    names = [name for name in model.task_names if name != "kind"]
    before, after = model.infer(fields, names), found.model.infer(fields, names)
    assert all(torch.equal(after[name]["logits"], before[name]["logits"]) for name in names)


def test_logits_that_are_not_finite_are_a_reason_too() -> None:
    model, specs = trained("kind")
    with torch.no_grad():
        for parameter in model.module_pool["kind_head"].parameters():
            parameter.fill_(math.inf)
    found = calibrate(model, specs, [loader(data(1, "kind"))])
    assert found.left_out == {"kind": "logits of labelled examples are not finite"}


def test_what_the_caller_got_wrong_is_an_error() -> None:
    model, specs = trained("kind")
    split = data(1, "kind")
    with pytest.raises(TaskloomError, match="no task 'yes'"):
        calibrate(model, specs, [loader(split)], ["yes"])
    with pytest.raises(TaskloomError, match="module 'yes_head'"):
        calibrate(model, specs_of("kind", "yes"), [loader(split)], ["kind"])
    split.X_dict["x"] = torch.zeros(N, WIDTH + 1)
    with pytest.raises(OperationError, match="trunk"):
        calibrate(model, specs, [loader(split)])


def test_the_new_model_is_set_up_as_the_old_and_nothing_is_drawn() -> None:
    model, specs = trained("kind")
    split = data(1, "kind")
    split.Y_dict["gold"] = split.Y_dict.pop("kind")
    model.remap_labels["gold"] = "kind"
    model.eval()
    state = torch.get_rng_state()
    found = calibrate(model, specs, [loader(split)])
    assert torch.equal(torch.get_rng_state(), state)
    assert found.tasks["kind"].n_labels == N
    assert (found.model.name, found.model.remap_labels, found.model.training) == (
        "m",
        {"gold": "kind"},
        False,
    )
    assert calibrate(model.train(), specs, [loader(split)]).model.training


def test_training_that_goes_on_leaves_temperatures_as_they_are() -> None:
    model, specs = trained("kind")
    split = loader(data(1, "kind", split="train"))
    found = calibrate(model, specs, [split])
    before = module_weights(found.model)
    Trainer(n_epochs=1, progress_bar=False).fit(found.model, [split])
    after = module_weights(found.model)
    changed = {key for key, values in after.items() if not torch.equal(values, before[key])}
    assert changed == before.keys() - {"kind_temperature/temperature"}


def test_temperatures_are_among_the_weights_and_go_with_the_bundle(tmp_path: Path) -> None:
    names = ["kind", "yes"]
    model, specs = trained(*names)
    found = calibrate(model, specs, [loader(data(1, *names))], per_class=True)
    weights = module_weights(found.model)
    assert weights["kind_temperature/temperature"].tolist() == found.tasks["kind"].temperatures
    again = MultitaskClassifier(build_tasks(found.specs), device="cpu")
    load_module_weights(again, weights)
    write_bundle(tmp_path / "m.zip", found.specs, weights, FIELDS)
    read = read_bundle(tmp_path / "m.zip")
    assert [spec.written_out() for spec in read.specs] == [spec.written_out() for spec in found.specs]
    x = {"x": torch.randn(100, WIDTH)}
    expected = found.model.infer(x, names)
    for other in (again, read.classifier()):
        answers = other.infer(x, names)
        assert all(torch.equal(answers[name]["probs"], expected[name]["probs"]) for name in names)


def test_a_calibrated_model_is_exported_with_its_temperatures(tmp_path: Path) -> None:
    names = ["kind", "yes", "tags"]
    model, specs = trained(*names)
    found = calibrate(model, specs, [loader(data(1, *names))], per_class=True)
    exported = Exported(found.specs, FIELDS, found.model)
    export_onnx(found.model, names, FIELDS, tmp_path / "m.onnx")
    check = check_onnx(tmp_path / "m.onnx", found.model, names, FIELDS)
    assert check.largest_difference < 1e-5
    assert check.differing_predictions == 0
    program = export_program(found.model, names, FIELDS)
    batch = exported.batch(7)
    answers, expected = program.module()(batch), found.model.infer(batch, names)
    for name in names:
        torch.testing.assert_close(answers[f"{name}.probs"], expected[name]["probs"], rtol=1e-5, atol=1e-5)
