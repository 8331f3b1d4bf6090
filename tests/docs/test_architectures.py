"""The page on architectures written out: each is checked, built, and trained on labels of which some are missing."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mtl_core import MultitaskClassifier
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import Limits, build_tasks, check_shared_modules, check_task, resolve_task
from mtl_core.specs import TaskSpec
from tests.docs.pages import ROOT, blocks, section

PAGE = ROOT / "docs" / "architectures.md"
TITLES = [line[3:] for line in PAGE.read_text().splitlines() if line.startswith("## ")]
FIELDS = {"x": FieldShape([5], "float32"), "words": FieldShape([6], "int64", vocabulary=11)}
N = 64


def models() -> list[Any]:
    """Each block's tasks, a second one made of a block that shows one alone."""
    shown = [(title, block.text) for title in TITLES for block in blocks(section(PAGE, title))]
    return [
        pytest.param(
            [json.loads(text), json.loads(text.replace("income", "college"))]
            if text.startswith("{")
            else json.loads(text),
            id=title,
        )
        for title, text in shown
    ]


def resolved(tasks: list[dict[str, Any]]) -> list[TaskSpec]:
    return [resolve_task(TaskSpec.model_validate(task), FIELDS, Limits()) for task in tasks]


def batch() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    words = torch.randint(0, 11, (N, 6), generator=generator)
    words[0] = 0
    return {"x": torch.randn(N, 5, generator=generator), "words": words}


def labels(fields: dict[str, torch.Tensor], names: list[str]) -> dict[str, torch.Tensor]:
    """Labels that can be learnt from either field; the first task lacks every third, the second the others."""
    seen = fields["x"][:, 0] + (fields["words"] == 3).any(dim=1) > 0
    missing = torch.arange(N) % 3 == 0
    return {name: seen.long().masked_fill(missing == bool(i), -1) for i, name in enumerate(names)}


@pytest.mark.parametrize("tasks", models())
def test_what_is_shown_is_right_with_and_without_the_data(tasks: list[dict[str, Any]]) -> None:
    for task in tasks:
        spec = TaskSpec.model_validate(task)
        check_task(spec, Limits())
        assert check_task(spec, Limits(), FIELDS).output_shape == [1]
    check_shared_modules(resolved(tasks))


@pytest.mark.parametrize("tasks", models())
def test_what_is_shown_trains_where_labels_are_missing(tasks: list[dict[str, Any]]) -> None:
    specs = resolved(tasks)
    model = MultitaskClassifier(build_tasks(specs, seed=0), device=-1)
    fields = batch()
    targets = labels(fields, [spec.name for spec in specs])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    totals: list[float] = []
    reached: set[str] = set()
    for _ in range(20):
        losses, counts = model.calculate_loss(fields, targets)
        total = torch.stack(list(losses.values())).sum()
        optimizer.zero_grad()
        total.backward()
        reached |= {
            name for name, p in model.named_parameters() if p.grad is not None and bool((p.grad != 0).any())
        }
        optimizer.step()
        totals.append(float(total.detach()))
    assert sorted(counts.values()) == [N // 3 + 1, N - N // 3 - 1]
    assert reached == {name for name, _ in model.named_parameters()}
    assert totals[-1] < 0.95 * totals[0]
    assert all(bool(p.isfinite().all()) for p in model.parameters())


@pytest.mark.parametrize("title", ["ESMM", "AITM"])
def test_a_step_is_never_likelier_than_the_one_before(title: str) -> None:
    (shown,) = blocks(section(PAGE, title))
    specs = resolved(json.loads(shown.text))
    model = MultitaskClassifier(build_tasks(specs, seed=1), device=-1)
    probabilities = model.infer(batch(), ["click", "buy"], ["probs"])
    click, buy = (probabilities[name]["probs"].flatten() for name in ("click", "buy"))
    assert bool((buy <= click).all())
    assert bool((buy < click).any())
