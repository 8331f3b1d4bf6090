"""Datasets of named fields and labels, and the loader that batches them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any, cast

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from mtl_core.errors import TaskloomError

XDict = dict[str, Any]
"""Field name → values, one per example: a tensor ``[n, …]`` or a sequence of length ``n``."""

YDict = dict[str, torch.Tensor]
"""Task name → labels ``[n]`` or ``[n, …]``; -1 (NaN for floats) where an example has none."""

Batch = tuple[XDict, YDict]

UNLABELLED = -1


def is_given(labels: torch.Tensor) -> torch.Tensor:
    """Say which entries of labels ``[n, …]`` are given, as booleans ``[n, …]``: all but -1 and NaN."""
    given = labels != UNLABELLED
    return given & ~labels.isnan() if labels.is_floating_point() else given


def is_labelled(labels: torch.Tensor) -> torch.Tensor:
    """Say which examples have a label.

    Args:
        labels: ``[n]`` or ``[n, …]``, integer or floating.

    Returns:
        Boolean ``[n]``: False where every entry of the example's label is -1 or NaN.

    Example:
        >>> is_labelled(torch.tensor([0, -1, 1])).tolist()
        [True, False, True]
    """
    given = is_given(labels)
    return given if given.ndim == 1 else given.flatten(start_dim=1).any(dim=1)


class DictDataset(Dataset[tuple[dict[str, Any], dict[str, torch.Tensor]]]):
    """One split of a dataset: fields by name, and labels by the name of the task they belong to.

    Args:
        name: The dataset's name, the second part of its score keys.
        split: The split's name, the third part of its score keys.
        X_dict: Field name → one value per example: a tensor ``[n, …]`` or a sequence of length ``n``.
        Y_dict: Task name → labels, a tensor ``[n]`` or ``[n, …]``; -1 means not labelled for that task.

    Raises:
        TaskloomError: If a label set is not a tensor, there is no field, or lengths differ.
    """

    def __init__(self, name: str, split: str, X_dict: XDict, Y_dict: YDict) -> None:
        self.name = name
        self.split = split
        self.X_dict = X_dict
        self.Y_dict = Y_dict
        for task_name, labels in Y_dict.items():
            if not isinstance(cast("object", labels), torch.Tensor):
                raise TaskloomError(
                    f"the labels of '{task_name}' should be a torch.Tensor, not {type(labels)}"
                )
        lengths = {key: len(values) for key, values in (*X_dict.items(), *Y_dict.items())}
        if not X_dict or len(set(lengths.values())) != 1:
            raise TaskloomError(f"dataset '{name}' needs fields and labels of one length, not {lengths}")

    @classmethod
    def from_tensors(
        cls,
        X_tensor: torch.Tensor,
        Y_tensor: torch.Tensor,
        split: str,
        input_data_key: str = "input_data",
        task_name: str = "task",
        dataset_name: str = "SnorkelDataset",
    ) -> DictDataset:
        """Return the dataset of one field, labelled for one task.

        Args:
            X_tensor: The field's values, ``[n, …]``.
            Y_tensor: The labels, ``[n]`` or ``[n, …]``.
            split: The split's name.
            input_data_key: The field's name; default ``"input_data"``.
            task_name: The task that the labels are for; default ``"task"``.
            dataset_name: The dataset's name; default ``"SnorkelDataset"``, as it has always been.
        """
        return cls(dataset_name, split, {input_data_key: X_tensor}, {task_name: Y_tensor})

    def __getitem__(self, index: int) -> Batch:
        return (
            {field: values[index] for field, values in self.X_dict.items()},
            {task: labels[index] for task, labels in self.Y_dict.items()},
        )

    def __len__(self) -> int:
        return len(next(iter(self.X_dict.values())))

    def __repr__(self) -> str:
        fields, tasks = list(self.X_dict), list(self.Y_dict)
        return f"{type(self).__name__}(name={self.name}, X_keys={fields}, Y_keys={tasks})"

    def batch(self, indices: Sequence[int] | torch.Tensor) -> Batch:
        """Gather examples by index; every field must be a tensor.

        Returns:
            Fields ``[len(indices), …]`` and labels ``[len(indices), …]``.
        """
        at = torch.as_tensor(indices, dtype=torch.int64)
        return (
            {field: values.index_select(0, at.to(values.device)) for field, values in self.X_dict.items()},
            {task: labels.index_select(0, at.to(labels.device)) for task, labels in self.Y_dict.items()},
        )

    def batches(self, indices: Iterable[torch.Tensor]) -> Iterator[Batch]:
        """Gather a batch for each list of indices, in order."""
        return map(self.batch, indices)


def collate_dicts(batch: Sequence[Batch]) -> Batch:
    """Merge examples into a batch.

    Tensors are stacked, 1-D tensors of several lengths padded at the end: fields with 0, labels with -1, which is no
    label. Numbers become a tensor; anything else stays a list.

    Args:
        batch: Fields and labels by name, each of one example.

    Returns:
        Fields ``[n, …]`` and labels ``[n, …]`` by the same names.

    Example:
        >>> X_dict, _ = collate_dicts([({"tokens": torch.tensor([5, 6])}, {}), ({"tokens": torch.tensor([7])}, {})])
        >>> X_dict["tokens"].tolist()
        [[5, 6], [7, 0]]
    """
    X_dict: XDict = {field: _merge([X[field] for X, _ in batch], 0) for field in batch[0][0]}
    Y_dict: YDict = {task: _merge([Y[task] for _, Y in batch], UNLABELLED) for task in batch[0][1]}
    return X_dict, Y_dict


def _merge(values: list[Any], padding: int) -> Any:
    if all(isinstance(value, torch.Tensor) for value in values):
        if all(value.shape == values[0].shape for value in values):
            return torch.stack(values)
        if all(value.ndim == 1 for value in values):
            return pad_sequence(values, batch_first=True, padding_value=padding)
    if all(isinstance(value, int | float) for value in values):
        return torch.tensor(values)
    return values


class ShuffledSampler(Sampler[int]):
    """The order of torch's ``RandomSampler``, without a Python number for every example at once.

    Args:
        n: How many examples to shuffle.
    """

    def __init__(self, n: int) -> None:
        self._n = n

    def order(self) -> torch.Tensor:
        """Draw an order of all examples, int64 ``[n]``."""
        seed = int(torch.empty((), dtype=torch.int64).random_().item())
        return torch.randperm(self._n, generator=torch.Generator().manual_seed(seed))

    def __iter__(self) -> Iterator[int]:
        order = self.order()
        for start in range(0, self._n, _INDICES_AT_ONCE):
            yield from order[start : start + _INDICES_AT_ONCE].tolist()

    def __len__(self) -> int:
        return self._n


_INDICES_AT_ONCE = 65_536


class DictDataLoader(DataLoader[Batch]):
    """A ``torch.utils.data.DataLoader`` over a :class:`DictDataset`, with all of its options.

    When every field is a tensor and no option asks for another way, a batch is gathered by one index per field rather
    than collated example by example; the batches are the same.

    Args:
        dataset: The split to batch.
        collate_fn: Merges a list of examples into a batch; default :func:`collate_dicts`.
        **kwargs: Passed to ``DataLoader``: ``batch_size``, ``shuffle``, ``sampler`` …

    Attributes:
        collates_because: Why batches are collated example by example, which takes many times as long; None where they
            are gathered.

    Raises:
        TaskloomError: If ``dataset`` is no :class:`DictDataset`.
    """

    dataset: DictDataset  # pyright: ignore[reportIncompatibleVariableOverride]

    def __init__(
        self,
        dataset: DictDataset,
        collate_fn: Callable[[Sequence[Batch]], Batch] = collate_dicts,
        **kwargs: Any,
    ) -> None:
        if not isinstance(cast("object", dataset), DictDataset):
            raise TaskloomError(f"a DictDataLoader loads a DictDataset, not a {type(dataset).__name__}")
        # Torch's own sampler makes a list of all indices, which is larger than many a dataset.
        if kwargs.get("shuffle") and not {"sampler", "generator"} & kwargs.keys() and len(dataset):
            kwargs |= {"shuffle": False, "sampler": ShuffledSampler(len(dataset))}
        super().__init__(dataset, collate_fn=cast("Any", collate_fn), **kwargs)
        self.collates_because = self._obstacle()

    @property
    def draws_order_at_once(self) -> bool:
        """Whether an epoch's order comes from torch's global generator, all of it when the first batch is drawn."""
        sampler = cast("Any", self.sampler)
        if not self._is_batched_plainly or self.generator is not None:
            return False
        return isinstance(sampler, ShuffledSampler | SequentialSampler) or (
            type(sampler) in (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
            and sampler.generator is None
        )

    def __iter__(self) -> Iterator[Batch]:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.from_batch(0)

    def from_batch(self, number: int) -> Iterator[Batch]:
        """Draw one epoch's batches, but for those before a number, counted from 0."""
        if self.collates_because:
            yield from islice(super().__iter__(), number, None)
        else:
            yield from self.dataset.batches(self.index_batches(number))

    def index_batches(self, number: int = 0) -> Iterator[torch.Tensor]:
        """Draw the same batches as indices of examples: int64, one tensor ``[k]`` for each batch, in order."""
        sampler = cast("object", self.sampler)
        if self._is_batched_plainly and isinstance(sampler, ShuffledSampler | SequentialSampler):
            n, size = len(self.dataset), cast("int", self.batch_size)
            order = sampler.order() if isinstance(sampler, ShuffledSampler) else torch.arange(n)
            end = n - n % size if self.drop_last else n
            yield from cast("Any", order[number * size : end]).split(size) if end > number * size else ()
        else:
            for indices in islice(cast("Any", self.batch_sampler), number, None):
                yield torch.as_tensor(indices, dtype=torch.int64)

    @property
    def _is_batched_plainly(self) -> bool:
        batches = cast("Any", self.batch_sampler)
        return type(batches) is BatchSampler and batches.sampler is self.sampler

    def _obstacle(self) -> str | None:
        """Say what keeps batches from being gathered, in the words of the option; None where nothing does."""
        if self.collate_fn is not cast("Any", collate_dicts):
            return "it has a collate function of its own"
        if self.num_workers:
            return "num_workers is not 0"
        if self.pin_memory:
            return "pin_memory is set"
        if self.batch_sampler is None:
            return "batch_size is None"
        if not _gathers_its_examples(type(self.dataset)):
            return "its dataset makes each example in a way of its own"
        loose = [
            field for field, values in self.dataset.X_dict.items() if not isinstance(values, torch.Tensor)
        ]
        return f"its field '{loose[0]}' is no tensor" if loose else None


def _gathers_its_examples(dataset: type[DictDataset]) -> bool:
    """Say whether no subclass makes its examples in a way of its own, which gathering would pass by."""
    makers = next(vars(cls) for cls in dataset.__mro__ if "__getitem__" in vars(cls) or "batch" in vars(cls))
    return "batch" in makers
