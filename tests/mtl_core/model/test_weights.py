from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save
from torch import nn

from mtl_core import (
    MultitaskClassifier,
    Operation,
    Task,
    TaskloomError,
    Trainer,
    load_module_weights,
    module_weights,
)

from ..shapes import shape_loaders, shape_task


def model_with_buffers() -> MultitaskClassifier:
    def trunk() -> nn.Module:
        return nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU())

    return MultitaskClassifier([shape_task("circle", trunk()), shape_task("square", trunk())], device="cpu")


def test_save_load_predict_is_the_identity_bit_for_bit() -> None:
    model = model_with_buffers()
    Trainer(n_epochs=2, seed=1, progress_bar=False).fit(model, shape_loaders())
    stored = save(module_weights(model))

    fresh = model_with_buffers()
    load_module_weights(fresh, load(stored))
    X_dict = {"circle_data": torch.randn(9, 2), "square_data": torch.randn(9, 2)}
    ours, theirs = (m.infer(X_dict, m.task_names) for m in (model, fresh))
    assert all(torch.equal(ours[task][kind], theirs[task][kind]) for task in ours for kind in ours[task])
    assert save(module_weights(fresh)) == stored


def test_keys_are_module_and_path() -> None:
    keys = set(module_weights(model_with_buffers()))
    assert {
        "base_mlp/0.weight",
        "base_mlp/1.running_mean",
        "base_mlp/1.num_batches_tracked",
        "circle_head/bias",
    } <= keys


def test_weights_are_copies_that_training_does_not_change() -> None:
    model = model_with_buffers()
    weights = module_weights(model)
    before = {key: tensor.clone() for key, tensor in weights.items()}
    Trainer(n_epochs=1, progress_bar=False).fit(model, shape_loaders())
    assert all(torch.equal(weights[key], tensor) for key, tensor in before.items())
    assert not torch.equal(module_weights(model)["base_mlp/0.weight"], before["base_mlp/0.weight"])


def test_only_the_named_modules_are_loaded() -> None:
    source, target = model_with_buffers(), model_with_buffers()
    before = module_weights(target)
    load_module_weights(target, module_weights(source), ["base_mlp"])
    after = module_weights(target)
    assert torch.equal(after["base_mlp/0.weight"], module_weights(source)["base_mlp/0.weight"])
    assert torch.equal(after["circle_head/weight"], before["circle_head/weight"])


def test_weights_of_modules_that_the_model_lacks_are_passed_over() -> None:
    source = model_with_buffers()
    target = MultitaskClassifier(
        [shape_task("circle", nn.Sequential(nn.Linear(2, 4), nn.BatchNorm1d(4), nn.ReLU()))], device="cpu"
    )
    load_module_weights(target, module_weights(source))
    assert torch.equal(module_weights(target)["circle_head/bias"], module_weights(source)["circle_head/bias"])


def test_tied_weights_and_dotted_names_survive() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encode, self.decode = nn.Linear(3, 3), nn.Linear(3, 3)
            self.decode.weight = self.encode.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.decode(self.encode(x))

    def model() -> MultitaskClassifier:
        return MultitaskClassifier(
            [Task("t", {"a.b": Tied()}, [Operation("a.b", [("_input_", "x")])])], device="cpu"
        )

    source, target, x = model(), model(), torch.randn(2, 3)
    stored = save(module_weights(source))
    load_module_weights(target, load(stored))
    assert torch.equal(
        source.infer({"x": x}, ["t"])["t"]["logits"], target.infer({"x": x}, ["t"])["t"]["logits"]
    )


@pytest.mark.parametrize(
    ("key", "tensor", "message"),
    [
        ("base_mlp/0.weight", None, "module 'base_mlp': tensor 'base_mlp/0.weight' is missing"),
        ("base_mlp/9.weight", torch.zeros(1), "module 'base_mlp': it has no tensor 'base_mlp/9.weight'"),
        (
            "circle_head/bias",
            torch.zeros(3),
            r"module 'circle_head': tensor 'circle_head/bias' is .*\[2\], not .*\[3\]",
        ),
        (
            "circle_head/bias",
            torch.zeros(2).double(),
            "tensor 'circle_head/bias' is torch.float32.*torch.float64",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused_and_nothing_is_loaded(
    key: str, tensor: torch.Tensor | None, message: str
) -> None:
    model = model_with_buffers()
    before = module_weights(model)
    weights = {name: value + 1 for name, value in before.items()}
    weights.pop(key, None)
    if tensor is not None:
        weights[key] = tensor
    with pytest.raises(TaskloomError, match=message):
        load_module_weights(model, weights)
    assert all(torch.equal(value, before[name]) for name, value in module_weights(model).items())


def test_a_module_that_the_model_lacks_is_refused_by_name() -> None:
    with pytest.raises(TaskloomError, match="no module 'tail'"):
        load_module_weights(model_with_buffers(), {}, ["tail"])


def test_a_module_may_take_after_one_of_another_name() -> None:
    source, target = model_with_buffers(), model_with_buffers()
    weights, before = module_weights(source), module_weights(target)
    load_module_weights(target, weights, {"square_head": "circle_head"})
    after = module_weights(target)
    assert torch.equal(after["square_head/weight"], weights["circle_head/weight"])
    assert torch.equal(after["circle_head/weight"], before["circle_head/weight"])
    with pytest.raises(
        TaskloomError,
        match=r"module 'square_head' \(from 'base_mlp'\): it has no tensor 'base_mlp/0\.weight'",
    ):
        load_module_weights(target, weights, {"square_head": "base_mlp"})
    with pytest.raises(TaskloomError, match=r"module 'square_head'.*: tensor 'tail/weight' is missing"):
        load_module_weights(target, weights, {"square_head": "tail"})


LAYERS: dict[str, Callable[[int], nn.Module]] = {
    "linear": lambda size: nn.Linear(size, size),
    "norm": nn.BatchNorm1d,
    "layer norm": nn.LayerNorm,
    "drop": lambda size: nn.Dropout(0.5),
    "double": lambda size: nn.Sequential(nn.Linear(size, 2 * size), nn.ReLU(), nn.Linear(2 * size, size)),
}


@st.composite
def small_models(draw: st.DrawFn) -> tuple[Callable[[], MultitaskClassifier], int]:
    """What makes a model of one to three tasks on one trunk, with other weights each time, and its field's size."""
    size = draw(st.integers(1, 4))
    heads = draw(st.lists(st.lists(st.sampled_from(list(LAYERS)), max_size=3), min_size=1, max_size=3))
    trunk = draw(st.lists(st.sampled_from(list(LAYERS)), min_size=1, max_size=3))
    tied = draw(st.booleans())

    def make() -> MultitaskClassifier:
        end = nn.Linear(size, 2)
        tasks: list[Task] = []
        for i, layers in enumerate(heads):
            name = f"head.{i}/of"
            last = end if tied else nn.Linear(size, 2)
            head = nn.Sequential(*(LAYERS[layer](size) for layer in layers), last)
            pool = {"trunk": nn.Sequential(*(LAYERS[layer](size) for layer in trunk)), name: head}
            path = [Operation("trunk", [("_input_", "x")]), Operation(name, ["trunk"])]
            tasks.append(Task(f"t{i}", pool, path))
        return MultitaskClassifier(tasks, device="cpu")

    return make, size


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(drawn=small_models())
def test_saving_loading_and_predicting_is_the_identity_for_any_model(
    drawn: tuple[Callable[[], MultitaskClassifier], int], tmp_path: Path
) -> None:
    make, size = drawn
    source, target, x = make(), make(), torch.randn(5, size)
    source(({"x": torch.randn(7, size)}), source.task_names)  # which moves the running means of norms
    source.save(tmp_path / "model.safetensors")
    target.load(tmp_path / "model.safetensors")
    ours, theirs = (model.infer({"x": x}, model.task_names) for model in (source, target))
    assert all(torch.equal(ours[task][kind], theirs[task][kind]) for task in ours for kind in ours[task])
    assert save(module_weights(source)) == save(module_weights(target))


def test_saving_makes_folders_replaces_the_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "runs" / "1" / "model"
    for _ in range(2):
        model = model_with_buffers()
        model.save(str(path))
        assert [file.name for file in path.parent.iterdir()] == ["model"]
        assert path.read_bytes() == save(module_weights(model))


def test_a_file_of_another_model_or_kind_is_refused_and_nothing_is_loaded(tmp_path: Path) -> None:
    model = model_with_buffers()
    before, path = save(module_weights(model)), tmp_path / "model"
    changed = {key: tensor + 1 for key, tensor in module_weights(model).items()}
    with pytest.raises(FileNotFoundError, match="model"):
        model.load(path)
    torch.save(changed, path)
    with pytest.raises(TaskloomError, match=r"model' is no safetensors file .*; pickled ones are not read"):
        model.load(path)
    for key, tensor, message in [
        ("tail/bias", torch.zeros(1), "has a module 'tail', which the model lacks"),
        ("base_mlp/9.bias", torch.zeros(1), "it has no tensor 'base_mlp/9.bias'"),
        ("square_head/bias", torch.zeros(9), "tensor 'square_head/bias' is"),
        ("square_head/bias", None, "tensor 'square_head/bias' is missing"),
    ]:
        weights = {name: value for name, value in changed.items() if name != key}
        path.write_bytes(save(weights if tensor is None else weights | {key: tensor}))
        with pytest.raises(TaskloomError, match=message):
            model.load(path)
        assert save(module_weights(model)) == before
