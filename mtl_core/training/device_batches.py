"""Batches for a model on another device than its data: gathered there, or sent there ahead."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import cast

import torch
from torch.utils.data import BatchSampler, SequentialSampler

from mtl_core.data import Batch, DictDataLoader, DictDataset, ShuffledSampler
from mtl_core.mapped import MappedDataset
from mtl_core.model.devices import map_tensors


class HeldSplit:
    """Gathers a loader's batches on the device that holds its whole split; only indices are sent there.

    Args:
        loader: The loader; it gathers by index.
        dataset: Its split, with all fields and labels on one device.

    Attributes:
        dataset: See above.
    """

    def __init__(self, loader: DictDataLoader, dataset: DictDataset) -> None:
        self.dataset = dataset
        self._loader = loader
        self._device = next(_tensors(dataset)).device

    def __iter__(self) -> Iterator[Batch]:
        """Draw an epoch's batches, those of the loader.

        Raises:
            IndexError: If a sampler draws an example that there is not.
        """
        return self.from_batch(0)

    def from_batch(self, number: int) -> Iterator[Batch]:
        """Draw an epoch's batches, but for those before a number."""
        yield from self.dataset.batches(map(self._sent, self._loader.index_batches(number)))

    def __len__(self) -> int:
        return len(self._loader)

    def _sent(self, indices: torch.Tensor) -> torch.Tensor:
        # On a GPU, one that is out of range ends all work of the process, and nothing says why.
        if len(indices) and (int(indices.min()) < 0 or int(indices.max()) >= len(self.dataset)):
            raise IndexError(f"a sampler drew an example that is none of the {len(self.dataset):,} there are")
        return _sent(indices, self._device)


class SentAhead:
    """Gathers a loader's batches and sends them to a device, each while the model is at work on the one before it.

    Args:
        loader: The loader; it gathers by index, and its order is drawn as a whole when an epoch begins.
        device: Where to send batches.

    Attributes:
        dataset: The split, where it was.
    """

    def __init__(self, loader: DictDataLoader, device: torch.device) -> None:
        self.dataset = loader.dataset
        self._loader = loader
        self._device = device

    def __iter__(self) -> Iterator[Batch]:
        """Draw an epoch's batches, those of the loader."""
        return self.from_batch(0)

    def from_batch(self, number: int) -> Iterator[Batch]:
        """Draw an epoch's batches, but for those before a number."""
        stream = None
        if self._device.type == "cuda":
            # A stream of its own, so that copies do not wait for what the model computes.
            stream = torch.cuda.Stream(self._device)
            stream.wait_stream(torch.cuda.current_stream(self._device))
        with ThreadPoolExecutor(1, "batches") as sender:
            ahead: deque[Future[tuple[Batch, torch.Event | None]]] = deque()
            for indices in self._loader.index_batches(number):
                ahead.append(sender.submit(self._gathered, indices, stream))
                if len(ahead) > 1:
                    yield self._arrived(*ahead.popleft().result())
            while ahead:
                yield self._arrived(*ahead.popleft().result())

    def __len__(self) -> int:
        return len(self._loader)

    def _gathered(
        self, indices: torch.Tensor, stream: torch.cuda.Stream | None
    ) -> tuple[Batch, torch.Event | None]:
        """Gather a batch and begin to send it; return it with what tells when it has arrived."""
        with torch.cuda.stream(stream):
            batch = map_tensors(self.dataset.batch(indices), lambda tensor: _sent(tensor, self._device))
            return batch, stream.record_event() if stream else None

    def _arrived(self, batch: Batch, event: torch.Event | None) -> Batch:
        """Have the model's stream wait for a batch."""
        if event is not None:
            current = torch.cuda.current_stream(self._device)
            current.wait_event(event)
            # Its memory is the other stream's, which must not give it away while this one reads it.
            map_tensors(batch, lambda tensor: tensor.record_stream(current))
        return batch


BatchSource = DictDataLoader | HeldSplit | SentAhead
"""What a training draws batches from: a loader, or what gives the same batches on the model's device."""


def on_device(
    loaders: Sequence[DictDataLoader], device: torch.device, budget: int | None = None
) -> tuple[list[BatchSource], list[str]]:
    """Return sources of the loaders' batches for a model on a device: the same batches, in the same order.

    Splits in memory that are gathered by index are copied to the device, if they fit there together; what is written
    to them later is not seen. Others are sent batch by batch, one ahead where neither a sampler nor a dataset could
    notice: no random number is drawn earlier than it would have been. On the CPU, sources are the loaders.

    Args:
        loaders: The loaders.
        device: Where the model is.
        budget: How many bytes of the device's memory the copies may take; default: half of what is free on a GPU, none
            elsewhere.

    Returns:
        The sources, in the order of the loaders, and lines to log that say where the data is.
    """
    if device.type == "cpu":
        return list(loaders), []
    if budget is None:
        budget = torch.cuda.mem_get_info(device)[0] // 2 if device.type == "cuda" else 0
    in_memory = [loader for loader in loaders if _gathers_from_memory(loader)]
    tensors = {id(tensor): tensor for loader in in_memory for tensor in _tensors(loader.dataset)}
    size = sum(t.nbytes for t in tensors.values() if t.device != device)
    held = in_memory if size <= budget else []
    copies = {key: tensor.to(device) for key, tensor in tensors.items()} if held else {}
    sources: list[BatchSource] = []
    lines: list[str] = []
    for loader in loaders:
        name = loader.dataset.name
        if loader in held:
            sources.append(HeldSplit(loader, _replaced(loader.dataset, copies)))
        elif obstacle := _obstacle(loader):
            sources.append(loader)
            lines.append(
                f"batches of '{name}' are gathered and sent to {device} as their turn comes: {obstacle}"
            )
        else:
            sources.append(SentAhead(loader, device))
            too_large = f"{_megabytes(size)} in memory do not fit into {_megabytes(budget)} there"
            why = too_large if loader in in_memory else "it is mapped from files"
            lines.append(f"batches of '{name}' are gathered and sent to {device} one ahead: {why}")
    if held:
        names = " and ".join(dict.fromkeys(f"'{loader.dataset.name}'" for loader in held))
        lines.append(f"the training split of {names} lies on {device} ({_megabytes(size)})")
    return sources, lines


def _gathers_from_memory(loader: DictDataLoader) -> bool:
    return loader.collates_because is None and type(loader.dataset).batch is DictDataset.batch


def _obstacle(loader: DictDataLoader) -> str | None:
    """Say what might notice that batches are gathered ahead, in another thread; None where nothing does."""
    if loader.collates_because:
        return loader.collates_because
    if type(loader.dataset).batch not in (DictDataset.batch, MappedDataset.batch):
        return "its dataset gathers batches in a way of its own"
    is_plain = type(cast("object", loader.batch_sampler)) is BatchSampler
    # These draw an epoch's order as a whole, when its first batch is asked for.
    if not (is_plain and isinstance(loader.sampler, ShuffledSampler | SequentialSampler)):
        return "its sampler may draw batch by batch"
    return None


def _tensors(dataset: DictDataset) -> Iterator[torch.Tensor]:
    yield from cast("Iterable[torch.Tensor]", dataset.X_dict.values())
    yield from dataset.Y_dict.values()


def _replaced(dataset: DictDataset, copies: dict[int, torch.Tensor]) -> DictDataset:
    """Return the split of the copies, by the identity of what they are copies of."""
    return DictDataset(
        dataset.name,
        dataset.split,
        {field: copies[id(values)] for field, values in dataset.X_dict.items()},
        {task: copies[id(labels)] for task, labels in dataset.Y_dict.items()},
    )


def _sent(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    if device.type != "cuda" or tensor.device.type != "cpu":
        return tensor.to(device)
    # Only from pinned memory does a copy go on by itself.
    return tensor.pin_memory().to(device, non_blocking=True)


def _megabytes(n_bytes: int) -> str:
    return f"{n_bytes / 1e6:,.1f} MB"
