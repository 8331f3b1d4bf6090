"""What a model with an architecture would be with other sizes: what a search over them tries."""

from __future__ import annotations

from typing import Any

import pytest

from app.db.tables import Model, ModelTask
from app.models import service
from app.models.tasks import written_out
from app.problems import Invalid
from mtl_core.architectures import TaskOutline
from mtl_core.architectures.experts import PLE, DSelectK
from mtl_core.building.tasks import Limits

OUTLINES = [TaskOutline(name=name, kind="binary", head=[3]) for name in ("a", "b")]


def model_of(architecture: DSelectK | PLE, outlines: list[TaskOutline] = OUTLINES) -> Model:
    tasks = written_out(architecture, outlines, Limits())
    return Model(name="m", architecture=architecture.model_dump(mode="json"), tasks=tasks, aliases=[])


def faults(model: Model, **overrides: Any) -> dict[str, str]:
    with pytest.raises(Invalid) as caught:
        service.expanded(model, overrides)
    return {error["pointer"]: error["detail"] for error in caught.value.errors}


def test_other_sizes_leave_the_rest_and_the_model_as_they_are() -> None:
    model = model_of(DSelectK(type="dselect_k", inputs=["x"], experts=4, expert_layers=[8]))
    before = service.specs_of(model)
    specs = service.expanded(model, {"experts": 6, "expert_layers": [5], "dropout": 0.5})
    experts = specs[0].module_pool["experts"]
    assert experts["n_experts"] == 6
    assert [layer.get("out_features") for layer in experts["layers"]] == [5, None, None]
    assert [spec.name for spec in specs] == ["a", "b"]
    assert specs[1].module_pool["head_b"]["layers"][0]["in_features"] == 5
    assert service.specs_of(model) == before == service.expanded(model, {})


def test_what_does_not_suit_the_architecture_is_named() -> None:
    model = model_of(DSelectK(type="dselect_k", inputs=["x"], experts=4, expert_layers=[8]))
    assert "it has activation, dropout, expert_layers" in faults(model, layers=[3])["/layers"]
    assert faults(model, type="mmoe").keys() == {"/type"}
    assert faults(model, experts=0, dropout="much").keys() == {"/experts", "/dropout"}
    assert faults(model, expert_layers=[0]).keys() == {"/expert_layers/0"}
    assert "there are 1" in faults(model, experts=1)["/k"]


def test_what_makes_paths_too_long_is_named() -> None:
    outlines = [TaskOutline(name=f"t{i}", kind="binary") for i in range(50)]
    model = model_of(PLE(type="ple", inputs=["x"], levels=1, expert_layers=[2]), outlines)
    assert "50 tasks are too many" in faults(model, levels=4)["/levels"]


def test_a_model_of_registered_tasks_has_no_sizes() -> None:
    model = Model(name="m", tasks=[ModelTask(task="a", position=0)], aliases=[])
    assert "has no architecture" in faults(model, experts=2)["/experts"]
