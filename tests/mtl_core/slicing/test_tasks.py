from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mtl_core import (
    DictDataLoader,
    DictDataset,
    MultitaskClassifier,
    Operation,
    Scorer,
    Task,
    TaskloomError,
    Trainer,
    module_weights,
)
from mtl_core.losses import CrossEntropy
from mtl_core.outputs import Softmax
from mtl_core.slicing import SFApplier, add_slice_labels, convert_to_slice_tasks, slicing_function

from ..shapes import shape_data, shape_task

NAMES = ["a", "a_k"]


def sliced(task: Task | None = None, names: list[str] | None = None) -> dict[str, Task]:
    return {task.name: task for task in convert_to_slice_tasks(task or shape_task("circle"), names or NAMES)}


@slicing_function()
def right(point: torch.Tensor) -> bool:
    return bool(point[0] > 0)


def test_each_slice_and_base_becomes_an_indicator_and_a_predictor_and_the_task_comes_last() -> None:
    assert list(sliced()) == [
        "circle_task_slice:a_ind",
        "circle_task_slice:a_k_ind",
        "circle_task_slice:base_ind",
        "circle_task_slice:a_pred",
        "circle_task_slice:a_k_pred",
        "circle_task_slice:base_pred",
        "circle_task",
    ]
    assert list(sliced(names=["base", "a"]))[:2] == ["circle_task_slice:base_ind", "circle_task_slice:a_ind"]
    assert len(convert_to_slice_tasks(shape_task("circle"), [])) == 3


def test_operations_and_modules_have_the_seeds_names_and_pools_only_what_their_task_uses() -> None:
    tasks = sliced()
    ind, pred, master = (tasks[f"circle_task{end}"] for end in ("_slice:a_ind", "_slice:a_pred", ""))
    assert list(ind.module_pool) == ["base_mlp", "circle_task_slice:a_ind_head"]
    assert list(pred.module_pool) == [
        "base_mlp",
        "circle_task_slice:a_pred_transform",
        "circle_task_slice:a_pred_head",
    ]
    for task in tasks.values():
        assert list(task.module_pool) == [op.module_name for op in task.op_sequence]
    assert [op.name for op in master.op_sequence[-2:]] == [
        "circle_task_master_combiner",
        "circle_task_master_head",
    ]
    assert len(master.op_sequence) == 1 + 3 * 3 + 2


def test_the_base_task_stays_as_it_is_and_shares_its_modules() -> None:
    base = shape_task("circle")
    pool, ops = dict(base.module_pool), list(base.op_sequence)
    tasks = sliced(base)
    assert base.module_pool == pool
    assert base.op_sequence == ops
    assert all(task.module_pool["base_mlp"] is pool["base_mlp"] for task in tasks.values())
    assert tasks["circle_task"].module_pool["circle_task_master_head"] is pool["circle_head"]
    heads = {
        task.module_pool[name]
        for name, task in sliced().items()
        if name.endswith("_pred")
        for name in [f"{name}_head"]
    }
    assert len(heads) == 1


def test_predictors_and_master_are_judged_as_the_base_task_is_and_indicators_by_f1() -> None:
    loss, output, scorer = CrossEntropy(label_smoothing=0.1), Softmax(), Scorer(metrics=["recall"])
    tasks = sliced(shape_task("circle", loss_func=loss, output_func=output, scorer=scorer))
    for name, task in tasks.items():
        if name.endswith("_ind"):
            assert list(task.scorer.metrics) == ["f1"]
            assert task.loss_func is not loss
        else:
            assert (task.loss_func, task.output_func, task.scorer) == (loss, output, scorer)


def test_new_layers_are_of_the_heads_size_and_type() -> None:
    head = nn.Linear(4, 3, dtype=torch.float64)
    pool = sliced(shape_task("circle", head=head))["circle_task"].module_pool
    sizes = {
        name.rpartition(":")[2]: (m.in_features, m.out_features, m.weight.dtype)
        for name, m in pool.items()
        if isinstance(m, nn.Linear) and ":a_" in name
    }
    assert {name: size for name, size in sizes.items() if not name.startswith("a_k")} == {
        "a_ind_head": (4, 2, torch.float64),
        "a_pred_transform": (4, 4, torch.float64),
        "a_pred_head": (4, 3, torch.float64),
    }
    wrapped = sliced(shape_task("circle", head=nn.DataParallel(head)))["circle_task"]
    assert wrapped.module_pool["circle_task_master_head"] is head
    assert "circle_head" not in wrapped.module_pool


def test_the_master_computes_what_the_papers_formula_says() -> None:
    tasks = sliced(shape_task("circle", head=nn.Linear(4, 3)))
    model = MultitaskClassifier(tasks.values(), device="cpu").eval()
    x = torch.rand(5, 2)
    pool = tasks["circle_task"].module_pool
    body = pool["base_mlp"](x)
    attention, features = [], []
    for name in ("a", "a_k", "base"):
        stem = f"circle_task_slice:{name}"
        feature = pool[f"{stem}_pred_transform"](body)
        confidence = pool[f"{stem}_pred_head"](feature).softmax(dim=1).max(dim=1).values
        attention.append(pool[f"{stem}_ind_head"](body).softmax(dim=1)[:, 1] * confidence)
        features.append(feature)
    weights = torch.stack(attention, dim=1).softmax(dim=1)
    combined = sum(weights[:, i : i + 1] * feature for i, feature in enumerate(features))
    expected = pool["circle_task_master_head"](combined).softmax(dim=1)
    found = model.infer({"circle_data": x}, ["circle_task"])["circle_task"]["probs"]
    assert torch.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head": nn.Sequential(nn.Linear(4, 2))}, "must end in a Linear with at least two outputs"),
        ({"head": nn.Linear(4, 1)}, "must end in a Linear with at least two outputs"),
        (
            {"ops": [Operation("base_mlp", [("_input_", "x")]), Operation("circle_head", [])]},
            "one input, not 0",
        ),
        (
            {
                "ops": [
                    Operation("circle_head", [("_input_", "x")], "first"),
                    Operation("circle_head", ["first"]),
                ]
            },
            "another operation uses its head 'circle_head' too",
        ),
        ({"trunk_op": "circle_task_master_head"}, "has a 'circle_task_master_head', as its slices would"),
        ({"names": ["a", "a"]}, "two slices have one name"),
    ],
)
def test_what_cannot_be_sliced_is_refused(change: dict[str, Any], message: str) -> None:
    task = shape_task("circle", head=change.get("head"))
    trunk_op = Operation("base_mlp", [("_input_", "x")], change.get("trunk_op"))
    ops = change.get("ops", [trunk_op, Operation("circle_head", [trunk_op.name])])
    task = Task("circle_task", task.module_pool, ops)
    with pytest.raises(TaskloomError, match=message):
        convert_to_slice_tasks(task, change.get("names", ["a"]))


def trained() -> tuple[MultitaskClassifier, DictDataLoader]:
    torch.manual_seed(0)
    base = shape_task("circle")
    data = shape_data("circle", n=128)
    loader = DictDataLoader(data, batch_size=32)
    add_slice_labels(loader, base, SFApplier([right]).apply(data.X_dict["circle_data"], progress_bar=False))
    model = MultitaskClassifier(convert_to_slice_tasks(base, ["right"]), device="cpu")
    Trainer(n_epochs=2, lr=0.02, progress_bar=False, seed=1).fit(model, [loader])
    return model, loader


def test_the_predictors_one_head_stays_one_through_training_and_through_its_weights(tmp_path: Path) -> None:
    model, loader = trained()
    heads = [f"circle_task_slice:{name}_pred_head" for name in ("right", "base")]
    assert model.module_pool[heads[0]] is model.module_pool[heads[1]]
    n_tensors = len({id(p) for name in model.module_pool for p in model.module_pool[name].parameters()})
    assert len(list(model.parameters())) == n_tensors

    weights = module_weights(model)
    assert torch.equal(weights[f"{heads[0]}/weight"], weights[f"{heads[1]}/weight"])
    torch.manual_seed(9)
    other = MultitaskClassifier(convert_to_slice_tasks(shape_task("circle"), ["right"]), device="cpu")
    model.save(tmp_path / "weights.safetensors")
    other.load(tmp_path / "weights.safetensors")
    assert other.module_pool[heads[0]] is other.module_pool[heads[1]]
    X_dict, _ = next(iter(loader))
    for task in model.task_names:
        ours, theirs = (m.infer(X_dict, [task])[task]["probs"] for m in (model, other))
        assert torch.equal(ours, theirs)


def test_every_slice_task_is_trained() -> None:
    model, loader = trained()
    X_dict, Y_dict = next(iter(loader))
    losses, counts = model.calculate_loss(X_dict, Y_dict)
    assert set(losses) == set(model.task_names)
    assert counts["circle_task_slice:right_pred"] == int(Y_dict["circle_task_slice:right_ind"].sum()) < 32
    torch.stack(list(losses.values())).sum().backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("members", [0, 1])
def test_a_slice_of_nobody_and_one_of_everybody_train_and_score(members: int) -> None:
    base = shape_task("circle")
    points = torch.rand(16, 2)
    labels = torch.tensor([-1] * 4 + [0, 1] * 6)
    loader = DictDataLoader(
        DictDataset("d", "train", {"circle_data": points}, {"circle_task": labels}), batch_size=8
    )
    all_or_none = slicing_function(name="s")(lambda point: bool(members))
    add_slice_labels(loader, base, SFApplier([all_or_none]).apply(points, progress_bar=False))
    model = MultitaskClassifier(convert_to_slice_tasks(base, ["s"]), device="cpu")
    Trainer(n_epochs=1, progress_bar=False).fit(model, [loader])
    ns = {(score.task, score.n) for score in model.evaluate([loader])}
    assert {
        ("circle_task", 12),
        ("circle_task_slice:s_ind", 16),
        ("circle_task_slice:s_pred", 12 * members),
        ("circle_task_slice:base_pred", 12),
    } <= ns


def test_a_sliced_task_runs_in_half_precision() -> None:
    model = MultitaskClassifier(sliced().values(), device="cpu")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses, _ = model.calculate_loss(
            {"circle_data": torch.rand(4, 2)}, {"circle_task": torch.tensor([0, 1, 0, 1])}
        )
    losses["circle_task"].backward()
    assert losses["circle_task"].isfinite()


def test_taking_a_slice_off_leaves_the_other_tasks_as_they_are() -> None:
    model, loader = trained()
    X_dict, _ = next(iter(loader))
    left = [name for name in model.task_names if name != "circle_task_slice:right_pred"]
    before = model.infer(X_dict, left)
    model.remove_task("circle_task_slice:right_pred")
    after = model.infer(X_dict, left)
    assert all(torch.equal(after[name]["probs"], before[name]["probs"]) for name in left)
