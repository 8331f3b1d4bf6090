from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mtl_core import TaskloomError, module_weights

from .tasks_that_peak import fit, same

PER_TASK: dict[str, Any] = {
    "early_stopping": True,
    "early_stopping_config": {"per_task": True, "patience": 2},
}


def per_task(**settings: Any) -> dict[str, Any]:
    return {"early_stopping": True, "early_stopping_config": {"per_task": True, "patience": 2} | settings}


def test_a_task_that_has_peaked_keeps_its_best_while_the_other_goes_on() -> None:
    model, heard = fit(**PER_TASK)
    assert heard.messages[1].startswith("task 'early' has peaked: early/*/valid/loss:min is")
    assert heard.messages[1].endswith("at evaluation 1")
    assert heard.messages[2] == "back to evaluation 1; modules ['early_head'] stay as they are there"
    best, peaked, after = heard.weights[0], heard.weights[2], heard.weights[3:]
    assert not same(best, peaked, "early_head")
    for weights in [*after, module_weights(model)]:
        assert same(best, weights, "early_head")
        assert not same(best, weights, "trunk")
    losses = {
        task: [metrics[f"{task}/valid/valid/loss"] for metrics in heard.metrics] for task in ("early", "late")
    }
    # Held by distillation: what two more epochs had spoilt is back, and stays, while the other task learns on.
    drift = [abs(loss - losses["early"][0]) for loss in losses["early"]]
    assert max(drift[3:]) < drift[2] / 2
    assert min(losses["late"][3:]) < min(losses["late"][:3])
    assert not model.training


def test_the_loss_of_a_task_that_has_peaked_counts_no_more() -> None:
    _, heard = fit(**PER_TASK)
    early = [metrics["early/train/train/loss"] for metrics in heard.metrics]
    assert [math.isnan(loss) for loss in early[:3]] == [False] * 3
    assert all(math.isnan(loss) for loss in early[3:])
    for metrics in heard.metrics[3:]:
        assert metrics["model/all/train/loss"] == pytest.approx(metrics["late/train/train/loss"])


def test_when_all_have_peaked_training_ends_with_the_best_mean_since_the_last_step_back() -> None:
    model, heard = fit(**PER_TASK, n_epochs=200, lr=0.2)
    assert len(heard.metrics) < 200
    assert [line.split(" is ")[0] for line in heard.messages if "peaked" in line] == [
        "task 'early' has peaked: early/*/valid/loss:min",
        "task 'late' has peaked: late/*/valid/loss:min",
    ]
    means = [m["early/valid/valid/loss"] + m["late/valid/valid/loss"] for m in heard.metrics]
    # The evaluation that it went back to, and those after it had.
    candidates = [0, *range(3, len(means))]
    best = min(candidates, key=lambda number: means[number])
    assert same(module_weights(model), heard.weights[best])


def test_tasks_that_peak_together_end_with_the_best_mean() -> None:
    model, heard = fit(**per_task(min_delta=1e6))
    assert len(heard.metrics) == 3
    assert sum("peaked" in line for line in heard.messages) == 2
    means = [m["early/valid/valid/loss"] + m["late/valid/valid/loss"] for m in heard.metrics]
    assert same(module_weights(model), heard.weights[means.index(min(means))])


def test_a_star_for_the_task_is_read_for_each() -> None:
    _, heard = fit(**per_task(metric="*/valid/valid/accuracy:max", patience=1), n_epochs=4)
    assert heard.messages[1].startswith("task 'early' has peaked: early/valid/valid/accuracy:max is")


@pytest.mark.parametrize("metric", ["early/valid/valid/loss:min", "model/all/valid/loss:min"])
def test_a_metric_that_says_nothing_of_a_task_is_refused(metric: str) -> None:
    with pytest.raises(TaskloomError, match=r"names no metric of task '(early|late)', which per_task needs"):
        fit(**per_task(metric=metric))


def test_a_task_that_nothing_trains_is_not_waited_for() -> None:
    _, heard = fit(
        **per_task(metric="late/*/valid/loss:min"), frozen_modules=["trunk", "early_head"], n_epochs=3
    )
    assert not any("'early'" in line for line in heard.messages)


def test_with_averaged_weights_the_average_goes_back() -> None:
    model, heard = fit(**PER_TASK, ema_decay=0.5)
    assert same(heard.weights[0], heard.weights[4], "early_head")
    assert same(heard.weights[0], module_weights(model), "early_head")


def test_it_is_reproducible_to_the_bit_with_whatever_else_is_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = PER_TASK | {
        "accumulate_batches": 3,
        "checkpointer_config": {"checkpoint_dir": str(tmp_path)},
        "checkpointing": True,
        "class_prior_bias": True,
        "ema_decay": 0.9,
        "lr_scheduler": "plateau",
        "module_lrs": {"late_head": 0.1},
        "non_finite": "skip",
        "precision": "bfloat16",
    }
    (first, heard), (second, _) = fit(**settings), fit(**settings)
    assert any("peaked" in line for line in heard.messages)
    assert same(module_weights(first), module_weights(second))


def test_gradients_are_wanted_again_at_the_end() -> None:
    model, _ = fit(**PER_TASK)
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.is_grad_enabled()
