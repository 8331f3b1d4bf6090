"""A model of one task and its slices, from a trunk and the slices' names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from mtl_core.data import DictDataLoader, DictDataset
from mtl_core.model.classifier import MultitaskClassifier
from mtl_core.scoring.scorer import Scorer
from mtl_core.slicing.labels import Array, add_slice_labels
from mtl_core.slicing.names import ind_task, pred_task, with_base
from mtl_core.slicing.tasks import convert_to_slice_tasks
from mtl_core.task import Operation, Task


class SliceAwareClassifier(MultitaskClassifier):
    """A classifier that learns named slices of its data apart, and is scored on each.

    Args:
        base_architecture: The trunk: input data ``[n, …]`` → representation ``[n, head_dim]``.
        head_dim: Numbers in the representation, which the head reads.
        slice_names: The slices that it learns.
        input_data_key: The field that the trunk reads; default ``"input_data"``.
        task_name: The task's name; default ``"task"``.
        scorer: What to measure; default: accuracy and F1.
        num_classes: Classes of the task, at least 2; default 2. With more, F1 is the mean over classes.
        **multitask_kwargs: Passed to :class:`~mtl_core.MultitaskClassifier`: ``name``, ``device`` …

    Attributes:
        base_task: The task as it is without slices.
        slice_names: The slices' names.

    Raises:
        TaskloomError: As :func:`convert_to_slice_tasks`.

    Source: Chen et al., "Slice-based Learning" (NeurIPS 2019), https://arxiv.org/abs/1909.06349.

    Example:
        >>> SliceAwareClassifier(nn.Linear(4, 8), 8, ["night"]).task_names[:2]
        ['task_slice:night_ind', 'task_slice:base_ind']
    """

    def __init__(
        self,
        base_architecture: nn.Module,
        head_dim: int,
        slice_names: Sequence[str],
        input_data_key: str = "input_data",
        task_name: str = "task",
        scorer: Scorer | None = None,
        num_classes: int = 2,
        **multitask_kwargs: Any,
    ) -> None:
        base_task = Task(
            name=task_name,
            module_pool={
                "base_architecture": base_architecture,
                "prediction_head": nn.Linear(head_dim, num_classes),
            },
            op_sequence=[
                Operation("base_architecture", [("_input_", input_data_key)], "input_op"),
                Operation("prediction_head", ["input_op"], "head_op"),
            ],
            scorer=scorer or Scorer(metrics=["accuracy", "f1" if num_classes == 2 else "f1_macro"]),
        )
        multitask_kwargs = {"name": f"{task_name}_sliceaware_classifier"} | multitask_kwargs
        super().__init__(convert_to_slice_tasks(base_task, slice_names), **multitask_kwargs)
        self.base_task = base_task
        self.slice_names = list(slice_names)

    def make_slice_dataloader(
        self, dataset: DictDataset, S: Array, **dataloader_kwargs: Any
    ) -> DictDataLoader:
        """Return a loader of a dataset to which the labels of the slice tasks are added.

        Args:
            dataset: Has labels for the base task; its ``Y_dict`` is changed.
            S: Who is in which slice: what :meth:`SFApplier.apply <mtl_core.slicing.SFApplier.apply>` answered.
            **dataloader_kwargs: Passed to :class:`~mtl_core.DictDataLoader`.

        Raises:
            TaskloomError: As :func:`add_slice_labels`.
        """
        dataloader = DictDataLoader(dataset, **dataloader_kwargs)
        add_slice_labels(dataloader, self.base_task, S)
        return dataloader

    def score_slices(self, dataloaders: Sequence[DictDataLoader], as_dataframe: bool = False) -> Any:
        """Score the task's own predictions on every slice.

        The labels of predictor tasks are scored along the base task's path, those of indicators not at all.

        Args:
            dataloaders: Of any splits, as :meth:`make_slice_dataloader` makes them.
            as_dataframe: Whether to answer a pandas ``DataFrame``; default: a dict.

        Returns:
            Value by ``label set/dataset/split/metric``.
        """
        task_name = self.base_task.name
        remap: dict[str, str | None] = {}
        for name in with_base(self.slice_names):
            remap |= {pred_task(task_name, name): task_name, ind_task(task_name, name): None}
        return self.score(dataloaders, remap_labels=remap, as_dataframe=as_dataframe)
