"""Task specs with slices: what can be sliced, what it costs, and that what is built learns."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mtl_core import (
    DictDataLoader,
    DictDataset,
    ModuleConflictError,
    MultitaskClassifier,
    SpecError,
    Trainer,
    module_weights,
)
from mtl_core.building.tasks import (
    Limits,
    build_tasks,
    canonical_task,
    check_shared_modules,
    check_task,
    plan_of,
    resolve_task,
)
from mtl_core.slicing import slice_labels, slice_masks
from mtl_core.specs import TaskSpec

from ..shapes import LINEAR_4_2, shape_data, shape_spec

RIGHT = {"name": "right", "where": {"field": "circle_data", "op": ">", "value": 0, "index": 0}}
LAZY_HEAD = {"type": "LazyLinear", "out_features": 2}
HARD = {"name": "hard", "where": {"not": {"mask": "easy"}}}


def sliced(*slices: dict[str, Any], shape: str = "circle", **changes: Any) -> TaskSpec:
    return TaskSpec.model_validate(shape_spec(shape, slices=list(slices or [RIGHT])) | changes)


def with_head(head: dict[str, Any], **changes: Any) -> TaskSpec:
    pool = shape_spec()["module_pool"] | {"circle_head": head}
    return sliced(module_pool=pool, **changes)


def faults_of(spec: TaskSpec, limits: Limits | None = None) -> list[tuple[str, str]]:
    with pytest.raises(SpecError) as caught:
        check_task(spec, limits or Limits())
    return [(fault.pointer, fault.detail) for fault in caught.value.faults]


class TestReport:
    def test_what_slices_bring_is_counted_the_shared_head_once(self) -> None:
        report = check_task(sliced(), Limits())
        stem = "circle_task_slice:"
        assert report.parameters == {
            "base_mlp": 12,
            f"{stem}right_ind_head": 10,
            f"{stem}base_ind_head": 10,
            f"{stem}right_pred_transform": 20,
            f"{stem}right_pred_head": 10,
            f"{stem}base_pred_transform": 20,
            f"{stem}base_pred_head": 0,
            "circle_task_master_combiner": 0,
            "circle_task_master_head": 10,
        }
        model = MultitaskClassifier(build_tasks([sliced()]), device="cpu")
        assert sum(report.parameters.values()) == sum(p.numel() for p in model.parameters())
        assert set(report.parameters) == set(model.module_pool)

    def test_the_output_is_the_base_tasks_and_more_is_computed_on_the_way(self) -> None:
        plain, report = (
            check_task(spec, Limits()) for spec in (TaskSpec.model_validate(shape_spec()), sliced())
        )
        assert report.output_shape == plain.output_shape == [2]
        assert plain.activations is not None
        assert report.activations is not None
        assert report.activations > plain.activations

    def test_fields_that_only_slices_look_at_are_no_inputs(self) -> None:
        assert list(check_task(sliced(RIGHT, HARD), Limits()).fields) == ["circle_data"]
        assert build_tasks([sliced(HARD)])[-1].fields == ["circle_data"]

    def test_slices_count_against_every_limit(self) -> None:
        plain = check_task(TaskSpec.model_validate(shape_spec()), Limits())
        assert plain.activations is not None
        for limits, message in (
            (Limits(max_parameters=50), "92 parameters in all, 20 of them here; at most 50"),
            (Limits(max_activations=plain.activations), "one example takes more than"),
            (Limits(max_layers=8), "with those of the slices, the modules have more than 8 layers"),
        ):
            check_task(TaskSpec.model_validate(shape_spec()), limits)
            [(pointer, detail)] = faults_of(sliced(), limits)
            assert pointer == "/slices"
            assert message in detail

    def test_a_trunk_beyond_the_limits_is_still_the_one_that_is_named(self) -> None:
        layer = {"type": "Linear", "in_features": 2, "out_features": 4000}
        head = {"type": "Linear", "in_features": 4000, "out_features": 2}
        body = {
            "type": "Sequential",
            "layers": [layer, {"type": "Linear", "in_features": 4000, "out_features": 4}],
        }
        spec = sliced(module_pool={"base_mlp": body, "circle_head": LINEAR_4_2})
        assert faults_of(spec, Limits(max_parameters=1000))[0][0] == "/module_pool/base_mlp"
        # A head that does not fit is refused at its own operation, whatever slices would make of it.
        assert faults_of(with_head(head))[0][0] == "/op_sequence/1"


class TestLazyHeads:
    def test_a_lazy_head_is_sliced_once_its_size_is_known(self) -> None:
        assert check_task(with_head(LAZY_HEAD), Limits()) == check_task(sliced(), Limits())
        resolved = resolve_task(with_head(LAZY_HEAD), {}, Limits())
        assert resolved.slices == sliced().slices
        assert [task.name for task in build_tasks([resolved], seed=1)] == [
            task.name for task in build_tasks([sliced()], seed=1)
        ]

    def test_until_then_only_declared_modules_are_counted(self) -> None:
        lazy_trunk = {"type": "LazyLinear", "out_features": 4}
        spec = sliced(module_pool={"base_mlp": lazy_trunk, "circle_head": LAZY_HEAD})
        report = check_task(spec, Limits())
        assert report.parameters == {"base_mlp": 0, "circle_head": 0}
        assert report.activations is None
        with pytest.raises(SpecError, match="resolve the task first"):
            build_tasks([spec])


class TestRefusals:
    @pytest.mark.parametrize(
        ("spec", "message"),
        [
            (
                with_head({"type": "Sequential", "layers": [LINEAR_4_2]}),
                "its last operation 'circle_head' in a Seq",
            ),
            (with_head(LINEAR_4_2 | {"out_features": 1}), "has two classes at least: 'circle_head' tells 1"),
            (sliced(loss="binary_cross_entropy"), "has the loss cross_entropy and the output softmax"),
            (sliced(output="sigmoid"), "has the loss cross_entropy and the output softmax"),
            (
                sliced(
                    op_sequence=[
                        {
                            "module_name": "base_mlp",
                            "inputs": [["_input_", "x"]],
                            "name": "circle_task_master_head",
                        },
                        {"module_name": "circle_head", "inputs": ["circle_task_master_head"]},
                    ]
                ),
                "bring a 'circle_task_master_head': call yours otherwise",
            ),
        ],
    )
    def test_what_cannot_be_sliced_is_refused_at_the_slices(self, spec: TaskSpec, message: str) -> None:
        faults = faults_of(spec)
        assert [pointer for pointer, _ in faults] == ["/slices"]
        assert message in faults[0][1]

    def test_a_head_of_several_inputs_or_uses_is_refused(self) -> None:
        square = {"type": "Linear", "in_features": 2, "out_features": 2}
        spec = TaskSpec.model_validate(
            {
                "name": "t",
                "module_pool": {"m": square},
                "op_sequence": [
                    {"name": "first", "module_name": "m", "inputs": [["_input_", "x"]]},
                    {"name": "last", "module_name": "m", "inputs": ["first", "first"]},
                ],
                "slices": [RIGHT],
            }
        )
        assert [detail for _, detail in faults_of(spec)] == [
            "a task with slices has one input to its last operation 'last'",
            "a task with slices uses its last module 'm' once only",
        ]

    def test_an_output_of_more_dimensions_is_refused(self) -> None:
        spec = sliced(inputs={"circle_data": {"shape": [3, 2], "dtype": "float32"}})
        [(pointer, detail)] = faults_of(spec)
        assert (pointer, detail) == (
            "/slices",
            "a task with slices answers one number for each class, not shape [3, 2]",
        )

    @pytest.mark.parametrize("module", ["circle_task_master_head", "circle_task_master_combiner"])
    def test_no_other_task_declares_a_module_that_slices_bring(self, module: str) -> None:
        operation = {"module_name": module, "inputs": [["_input_", "x"]]}
        other = TaskSpec.model_validate(
            {"name": "other", "module_pool": {module: LINEAR_4_2}, "op_sequence": [operation]}
        )
        check_shared_modules([TaskSpec.model_validate(shape_spec()), other])
        for specs in ([sliced(), other], [other, sliced()]):
            with pytest.raises(ModuleConflictError, match=f"'{module}' .* tasks 'circle_task' and 'other'"):
                build_tasks(specs)


class TestBuilding:
    def test_tasks_with_slices_and_without_share_their_trunk(self) -> None:
        tasks = build_tasks([sliced(), TaskSpec.model_validate(shape_spec("square"))])
        assert [task.name for task in tasks] == [
            "circle_task_slice:right_ind",
            "circle_task_slice:base_ind",
            "circle_task_slice:right_pred",
            "circle_task_slice:base_pred",
            "circle_task",
            "square_task",
        ]
        assert len({task.module_pool["base_mlp"] for task in tasks}) == 1

    def test_a_seeded_layers_weights_depend_on_its_name_and_the_seed_alone(self) -> None:
        def weights(*specs: TaskSpec, seed: int = 1) -> dict[str, torch.Tensor]:
            return module_weights(MultitaskClassifier(build_tasks(specs, seed=seed), device="cpu"))

        few = weights(sliced())
        many = weights(TaskSpec.model_validate(shape_spec("square")), sliced(HARD, RIGHT))
        assert all(torch.equal(many[name], tensor) for name, tensor in few.items())
        assert not torch.equal(
            few["circle_task_slice:right_ind_head/weight"], few["circle_task_slice:base_ind_head/weight"]
        )
        assert not torch.equal(
            few["circle_task_master_head/weight"], weights(sliced(), seed=2)["circle_task_master_head/weight"]
        )

    def test_the_plan_of_specs_is_that_of_their_model(self) -> None:
        specs = [sliced(RIGHT, HARD), TaskSpec.model_validate(shape_spec("square"))]
        model = MultitaskClassifier(build_tasks(specs), device="cpu")
        assert plan_of(specs) == model.plan
        lazy = with_head(LAZY_HEAD)
        assert plan_of([lazy]) == plan_of([sliced()])

    def test_the_canon_tells_slices_apart(self) -> None:
        plain, one = (canonical_task(spec) for spec in (TaskSpec.model_validate(shape_spec()), sliced()))
        assert plain["slices"] == []
        assert one["slices"] == [{"name": "right", "where": RIGHT["where"]}]
        assert canonical_task(TaskSpec.model_validate(one)) == one
        assert canonical_task(sliced(HARD)) != one

    def test_what_is_built_from_json_learns_its_task_and_who_is_in_the_slice(self) -> None:
        wide = {"type": "Linear", "in_features": 2, "out_features": 16}
        trunk = {"type": "Sequential", "layers": [wide, {"type": "ReLU"}]}
        spec = sliced(HARD, RIGHT, module_pool={"base_mlp": trunk, "circle_head": LAZY_HEAD})
        spec = resolve_task(spec, {}, Limits())
        loaders: list[DictDataLoader] = []
        for split, seed in (("train", 0), ("test", 1)):
            data = shape_data("circle", split, n=512, seed=seed)
            points = data.X_dict["circle_data"]
            columns = {"circle_data": points.numpy(), "easy": (points[:, 1] > 0).numpy()}
            labels = slice_labels(
                "circle_task", data.Y_dict["circle_task"].numpy(), slice_masks(spec.slices, columns)
            )
            Y_dict = data.Y_dict | {name: torch.from_numpy(values) for name, values in labels.items()}
            loaders.append(DictDataLoader(DictDataset("d", split, data.X_dict, Y_dict), batch_size=64))
        model = MultitaskClassifier(build_tasks([spec], seed=0), device="cpu")
        Trainer(n_epochs=20, lr=0.03, progress_bar=False, seed=0).fit(model, loaders)
        scores = model.score(loaders[1:])
        assert scores["circle_task/d/test/accuracy"] > 0.9
        assert scores["circle_task_slice:hard_pred/d/test/accuracy"] > 0.9
        assert scores["circle_task_slice:hard_ind/d/test/f1"] > 0.9
        assert scores["circle_task_slice:right_ind/d/test/f1"] > 0.9
        assert not np.isnan(list(scores.values())).any()
