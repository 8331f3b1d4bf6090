"""The short form of a model: what each architecture expands to, that it trains, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from mtl_core import DictDataLoader, DictDataset, MultitaskClassifier, SpecError, Trainer
from mtl_core.architectures import Architecture, TaskOutline, expand
from mtl_core.building.fields import FieldShape
from mtl_core.building.tasks import Limits, build_tasks, check_task, plan_of, resolve_task
from mtl_core.specs import TaskSpec

_READ: TypeAdapter[Architecture] = TypeAdapter(Architecture)

NUMBERS = FieldShape([3], "float32")
TOKENS = FieldShape([5], "int64", vocabulary=7)
SMALL: dict[str, dict[str, Any]] = {
    "shared_bottom": {"layers": [8, 6]},
    "single_task": {"layers": [8, 6]},
    "mmoe": {"experts": 3, "expert_layers": [6]},
    "dselect_k": {"experts": 5, "k": 2, "expert_layers": [6]},
    "cgc": {"shared_experts": 2, "task_experts": 1, "expert_layers": [6]},
    "ple": {"shared_experts": 2, "task_experts": 1, "expert_layers": [6], "levels": 3},
    "cross_stitch": {"layers": [8, 6]},
    "film": {"layers": [8, 6]},
    "adapters": {"layers": [8, 6], "bottleneck": 2},
    "esmm": {"layers": [6]},
    "aitm": {"layers": [6]},
    "attention_pooling": {"embedding_dim": 4, "heads": 2, "layers": [6]},
}
EVERY_TYPE = pytest.mark.parametrize("kind", SMALL)


def architecture(kind: str, **options: Any) -> Architecture:
    inputs = {"inputs": ["ids" if kind == "attention_pooling" else "x"]}
    return _READ.validate_python({"type": kind} | inputs | SMALL[kind] | options)


def outlines(*names: str, kind: str = "binary", **members: Any) -> list[TaskOutline]:
    return [TaskOutline.model_validate({"name": name, "kind": kind} | members) for name in names]


def faults_of(kind: str, tasks: list[TaskOutline], **options: Any) -> dict[str, str]:
    with pytest.raises(SpecError) as caught:
        expand(architecture(kind, **options), tasks)
    return {fault.pointer: fault.detail for fault in caught.value.faults}


def refused(kind: str, **options: Any) -> list[str]:
    with pytest.raises(ValidationError) as caught:
        architecture(kind, **options)
    return ["/".join(map(str, error["loc"][1:])) for error in caught.value.errors()]


def modules(specs: list[TaskSpec]) -> dict[str, Any]:
    return {name: module for spec in specs for name, module in spec.module_pool.items()}


def built(specs: list[TaskSpec]) -> MultitaskClassifier:
    fields = {"x": NUMBERS, "y": FieldShape([2], "float32"), "ids": TOKENS}
    return MultitaskClassifier(build_tasks([resolve_task(spec, fields, Limits()) for spec in specs], seed=1))


def loader(n: int = 32) -> DictDataLoader:
    """Two fields and labels of three tasks, of which each row lacks one."""
    made = torch.Generator().manual_seed(0)
    x = torch.randn(n, 3, generator=made)
    ids = torch.randint(0, TOKENS.vocabulary or 0, (n, 5), generator=made)
    labels = {name: (x[:, i] > 0).long() for i, name in enumerate("abc")}
    for i, label in enumerate(labels.values()):
        label[i::3] = -1
    return DictDataLoader(DictDataset("d", "train", {"x": x, "ids": ids}, labels), batch_size=16)


@EVERY_TYPE
@pytest.mark.parametrize("norm", [None, "layer"])
def test_it_trains_on_partial_labels(kind: str, norm: str | None) -> None:
    specs = expand(architecture(kind, norm=norm, dropout=0.1, activation="gelu"), outlines("a", "b", "c"))
    assert [check_task(spec, Limits()).output_shape for spec in specs] == [None] * 3
    model, data = built(specs), loader()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    Trainer(n_epochs=1, lr=0.05, progress_bar=False).fit(model, [data])
    after = model.state_dict()
    # Every task's head is trained, and so is what comes before it.
    assert all(torch.isfinite(value).all() for value in after.values())
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert all(any(f"head_{task}" in name for name in moved) for task in "abc")
    assert any("head_" not in name for name in moved)
    assert all(len(probs) == 32 for probs in model.predict(data)["probs"].values())


@EVERY_TYPE
def test_a_further_task_changes_only_what_mixes_all_tasks(kind: str) -> None:
    two = modules(expand(architecture(kind), outlines("a", "b")))
    three = modules(expand(architecture(kind), outlines("a", "b", "c")))
    mixing = {"cross_stitch": {"stitch1", "stitch2"}, "ple": {"gate1", "gate2"}}.get(kind, set())
    assert {name for name in two if two[name] != three.get(name)} == mixing
    # What is new is the new task's own.
    assert three.keys() - two.keys()
    assert all(name.endswith("_c") for name in three.keys() - two.keys())


@EVERY_TYPE
def test_one_task_is_a_model_too(kind: str) -> None:
    built(expand(architecture(kind), outlines("a")))


def test_only_the_baseline_shares_nothing() -> None:
    def shared(kind: str) -> set[str]:
        first, second = expand(architecture(kind), outlines("a", "b"))
        return first.module_pool.keys() & second.module_pool.keys()

    assert {kind for kind in SMALL if not shared(kind)} == {"single_task"}
    assert shared("mmoe") == {"experts"}
    assert shared("film") == {"layer1", "layer2"}


def test_names_say_what_modules_are_and_whose() -> None:
    specs = expand(architecture("cgc"), outlines("income", "never.married"))
    assert list(modules(specs)) == [
        *("experts_income", "experts", "gate_income", "head_income"),
        *("experts_never.married", "gate_never.married", "head_never.married"),
    ]
    # A task may be named like a part of an architecture.
    tasks = outlines("experts", "1", "gate", "a_b", "a")
    for kind in SMALL:
        assert len(plan_of(expand(architecture(kind), tasks)).operations) == len(tasks)


def test_several_fields_are_read_side_by_side() -> None:
    specs = expand(architecture("mmoe", inputs=["x", "y"]), outlines("a"))
    assert specs[0].op_sequence[0].inputs == [("_input_", "x"), ("_input_", "y")]
    resolved = resolve_task(specs[0], {"x": NUMBERS, "y": FieldShape([2], "float32")}, Limits())
    assert resolved.module_pool["gate_a"]["in_features"] == 5


def test_what_stands_between_layers() -> None:
    def trunk(**options: Any) -> list[Any]:
        (spec,) = expand(architecture("shared_bottom", layers=[4, 2], **options), outlines("a"))
        return [layer["type"] for layer in spec.module_pool["trunk"]["layers"]]

    assert trunk() == ["LazyLinear", "ReLU", "Linear", "ReLU"]
    assert trunk(activation="silu", dropout=0.5, norm="batch") == [
        *("LazyLinear", "BatchNorm1d", "SiLU", "Dropout"),
        *("Linear", "BatchNorm1d", "SiLU", "Dropout"),
    ]
    # A task's FiLM comes before the activation.
    (spec,) = expand(architecture("film", layers=[4], norm="layer"), outlines("a"))
    types = [[layer["type"] for layer in spec.module_pool[name]["layers"]] for name in ("layer1", "film1_a")]
    assert types == [["LazyLinear", "LayerNorm"], ["FiLM", "ReLU"]]


def test_heads_have_as_many_outputs_as_the_kind_asks_for() -> None:
    tasks = [
        *outlines("b"),
        *outlines("m", kind="multiclass", labels=3, head=[5]),
        *outlines("o", kind="ordinal", labels=4),
        *outlines("r", kind="regression", labels=2),
    ]
    heads = modules(expand(architecture("shared_bottom"), tasks))
    sizes = {name: heads[f"head_{name}"].get("out_features") for name in "bor"}
    assert sizes == {"b": 1, "o": 3, "r": 2}
    assert [layer.get("out_features") for layer in heads["head_m"]["layers"]] == [5, None, 3]


def test_an_outline_overrides_what_its_kind_brings() -> None:
    (plain, other) = expand(
        architecture("shared_bottom"),
        [
            *outlines("a"),
            *outlines("b", loss={"type": "binary_cross_entropy", "pos_weight": 3.0}, metrics=["f1"]),
        ],
    )
    assert plain.kind == other.kind == "binary"
    assert other.loss == {"type": "binary_cross_entropy", "pos_weight": 3.0}
    assert other.metrics == ["f1"] != plain.metrics
    assert other.output == plain.output


def test_a_chain_of_tasks_is_never_likelier_than_its_beginning() -> None:
    model = built(expand(architecture("esmm"), outlines("a", "b", "c")))
    probs = model.predict(loader())["probs"]
    first, second, third = (np.asarray(probs[name])[:, -1] for name in "abc")
    assert (third <= second).all()
    assert (second <= first).all()
    assert (third < first).any()


def test_levels_of_experts() -> None:
    def gates(levels: int) -> list[str]:
        specs = expand(architecture("ple", levels=levels), outlines("a", "b"))
        return sorted(name for name in modules(specs) if name.startswith("gate"))

    assert gates(1) == ["gate1_a", "gate1_b"]
    assert gates(2) == ["gate1", "gate1_a", "gate1_b", "gate2_a", "gate2_b"]
    shared = modules(expand(architecture("ple", levels=2), outlines("a", "b")))["gate1"]
    assert shared == {"type": "LazyGate", "n_experts": 4}


def test_operations_that_tasks_share_run_once() -> None:
    plan = plan_of(expand(architecture("ple", levels=2), outlines("a", "b", "c")))
    names = [node.module_name for node in plan.nodes]
    assert len(names) == len(set(names))


def test_a_thousand_tasks() -> None:
    names = [f"task{i}" for i in range(1000)]
    for kind in ("shared_bottom", "mmoe"):
        assert [spec.name for spec in expand(architecture(kind), outlines(*names))] == names
    for kind in ("cross_stitch", "ple", "esmm", "aitm"):
        assert "1000 tasks are too many" in faults_of(kind, outlines(*names))["/tasks"]
    large = faults_of("mmoe", outlines(*names), experts=20, expert_layers=[2] * 8)["/tasks"]
    assert "layers one by one, at most 100,000" in large
    # Without inner levels, no path goes through all tasks.
    assert len(expand(architecture("ple", levels=1), outlines(*names))) == 1000


def test_faults_point_at_the_outline() -> None:
    tasks = [
        *outlines("a"),
        *outlines("a"),
        *outlines("b", kind="multiclass"),
        *outlines("c", kind="nonsense"),
    ]
    faults = faults_of("shared_bottom", tasks)
    assert list(faults) == ["/tasks/1/name", "/tasks/2/labels", "/tasks/3/kind"]
    assert "'a' is named twice" in faults["/tasks/1/name"]
    assert faults_of("shared_bottom", []).keys() == {"/tasks"}


@pytest.mark.parametrize("kind", ["esmm", "aitm"])
def test_chains_are_of_binary_tasks(kind: str) -> None:
    faults = faults_of(kind, [*outlines("a"), *outlines("b", kind="regression")])
    assert list(faults) == ["/tasks/1/kind"]
    assert "'binary' only" in faults["/tasks/1/kind"]


def test_sizes_have_bounds() -> None:
    assert refused("shared_bottom", layers=[]) == ["layers"]
    assert refused("shared_bottom", layers=[0]) == ["layers/0"]
    assert refused("shared_bottom", layers=[True]) == ["layers/0"]
    assert refused("shared_bottom", layers=[1] * 17) == ["layers"]
    assert refused("shared_bottom", dropout=1) == ["dropout"]
    assert refused("shared_bottom", experts=3) == ["experts"]
    assert refused("shared_bottom", inputs=["x", "x"]) == ["inputs"]
    assert refused("shared_bottom", activation="eval") == ["activation"]
    assert refused("mmoe", experts=257) == ["experts"]
    assert refused("dselect_k", experts=1) == ["k"]
    assert refused("ple", levels=5) == ["levels"]
    assert refused("attention_pooling", inputs=["a", "b"]) == ["inputs"]
    with pytest.raises(ValidationError, match="'mmoe'"):
        _READ.validate_python({"type": "nonsense"})
    with pytest.raises(ValidationError, match="at most 112"):
        outlines("a" * 113)
