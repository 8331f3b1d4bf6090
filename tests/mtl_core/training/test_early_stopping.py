from __future__ import annotations

from typing import Any

import pytest
import torch

from mtl_core import TaskloomError, module_weights

from .tasks_that_peak import fit, same


def stopping(**settings: Any) -> dict[str, Any]:
    return {"early_stopping": True, "early_stopping_config": settings}


def test_training_ends_after_patience_and_the_best_weights_come_back() -> None:
    model, heard = fit(**stopping(metric="early/valid/valid/loss:min", patience=3))
    assert len(heard.metrics) == 4
    assert same(module_weights(model), heard.weights[0])
    assert not model.training
    assert heard.messages == [
        "early stopping ends with the best weights: early/valid/valid/loss:min is"
        f" {heard.metrics[0]['early/valid/valid/loss']:.4g} at evaluation 1"
    ]


def test_by_default_the_validation_loss_of_the_whole_model_is_watched() -> None:
    model, heard = fit(**stopping(patience=2))
    losses = [metrics["model/all/valid/loss"] for metrics in heard.metrics]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 2
    assert same(module_weights(model), heard.weights[best])


def test_without_an_end_before_the_last_epoch_the_best_weights_come_back_too() -> None:
    metric = ["late/valid/valid/accuracy:max", "early/valid/valid/accuracy:max"]
    model, heard = fit(**stopping(metric=metric, patience=100), n_epochs=6)
    means = [
        metrics["late/valid/valid/accuracy"] + metrics["early/valid/valid/accuracy"]
        for metrics in heard.metrics
    ]
    assert len(means) == 6
    assert same(module_weights(model), heard.weights[means.index(max(means))])


def test_an_improvement_smaller_than_min_delta_is_none() -> None:
    _, heard = fit(**stopping(metric="late/valid/valid/loss:min", patience=2, min_delta=10.0))
    assert len(heard.metrics) == 3


def test_what_comes_back_with_averaged_weights_is_the_average_that_was_evaluated() -> None:
    model, heard = fit(**stopping(metric="early/valid/valid/loss:min", patience=2), ema_decay=0.9)
    assert same(module_weights(model), heard.weights[0])


def test_early_stopping_has_the_last_word_over_the_best_checkpoint(tmp_path: Any) -> None:
    checkpoints = {"checkpoint_dir": str(tmp_path), "checkpoint_metric": "model/all/train/loss:min"}
    model, heard = fit(
        **stopping(metric="early/valid/valid/loss:min", patience=2),
        checkpointing=True,
        checkpointer_config=checkpoints,
    )
    assert same(module_weights(model), heard.weights[0])
    assert [path.name for path in tmp_path.iterdir()] == ["best_model_model_all_train_loss.safetensors"]


def test_a_metric_that_is_not_logged_is_an_error_that_names_those_that_are() -> None:
    with pytest.raises(TaskloomError, match=r"no metric 'early/valid/valid/f1'.*early/valid/valid/accuracy"):
        fit(**stopping(metric="early/valid/valid/f1:max"))


def test_it_is_reproducible_to_the_bit() -> None:
    settings = stopping(patience=2)
    (first, _), (second, _) = fit(**settings), fit(**settings)
    assert same(module_weights(first), module_weights(second))
    assert all(bool(torch.isfinite(tensor).all()) for tensor in module_weights(first).values())
