"""In which batches a split is predicted: as large as is quick, where an example's answer depends on it alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn
from torch.utils.data import BatchSampler, SequentialSampler

from mtl_core.data import DictDataLoader, DictDataset, ShuffledSampler, XDict
from mtl_core.model.heads import has_hooks
from mtl_core.model.network import TaskNetwork
from mtl_core.modules.combine import Add, Concat, Multiply, Residual
from mtl_core.modules.conditioning import Adapter, FiLM, TaskEmbedding
from mtl_core.modules.coupling import CrossStitch, InformationTransfer
from mtl_core.modules.dselect import DSelectK
from mtl_core.modules.experts import Experts, Gate
from mtl_core.modules.temperature import Temperature
from mtl_core.outputs import Exponential, Identity, Ordinal, Output, Quantiles, Sigmoid, Softmax
from mtl_core.scaling import ScaledOutput

ACTIVATION_BYTES = 2 * 2**20
"""About how much memory the activations of a large batch may take; what fits into a processor's cache is quickest."""

_MOST_ROWS = 16_384

_MOST_ROWS_TRIED, _MOST_BATCHES_TRIED = 1_024, 8
"""How many rows, and how many of its loader's batches, a batch may have for modules of which little is known."""

_ELEMENTWISE = (  # noqa: SIM905 One string reads better than thirty lines of one name each.
    "Identity Dropout AlphaDropout FeatureAlphaDropout "
    "ReLU ReLU6 LeakyReLU PReLU RReLU ELU SELU CELU GELU SiLU Mish Softplus Softsign Sigmoid LogSigmoid "
    "Tanh Tanhshrink Hardtanh Hardsigmoid Hardswish Hardshrink Softshrink Threshold"
).split()

_ROW_BY_ROW: frozenset[type] = frozenset(
    {
        *(getattr(nn, name) for name in _ELEMENTWISE),
        *(nn.Linear, nn.Bilinear, nn.LayerNorm, nn.RMSNorm, nn.Embedding, nn.Sequential, nn.ModuleList),
        *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        *(Add, Concat, Multiply, Residual, Experts, Gate, DSelectK),
        *(Adapter, FiLM, TaskEmbedding, CrossStitch, InformationTransfer, Temperature),
    }
)

_OUTPUTS: frozenset[type] = frozenset({Softmax, Sigmoid, Ordinal, Identity, Exponential, Quantiles})


class SplitReading:
    """A split read once, in its loader's order: iterating gives the fields of each batch.

    Batches are the loader's own, unless a number of rows is set and the loader gathers batches by index: then each has
    about that many of the rows that the loader reads. A split in memory that is read from its first row to its last
    is not copied at all.

    Args:
        loader: The split.
        labels: Which label sets are wanted.
        writes: Whether a module may write into a batch, which must then be a copy.
        in_any_order: Whether a split that the loader shuffles may be read in its own order instead, which copies
            nothing; default False.

    Attributes:
        loader: The split.
        rows: How many rows each batch that is read from now on should have; None, as at first: as many as the loader
            gives it.
    """

    def __init__(
        self,
        loader: DictDataLoader,
        labels: Iterable[str],
        writes: bool = False,
        *,
        in_any_order: bool = False,
    ) -> None:
        self.loader = loader
        self.rows: int | None = None
        self._writes = writes
        self._read: dict[str, list[torch.Tensor]] = {label: [] for label in labels}
        self._order: list[torch.Tensor] = []
        self._gathers = loader.collates_because is None
        # Of any other class, the batches are what its own methods make of its rows.
        self._in_memory = self._gathers and type(loader.dataset) is DictDataset
        self._in_order = self._in_memory and _reads_all(loader, in_any_order)

    def __iter__(self) -> Iterator[XDict]:
        data = self.loader.dataset
        if self._in_order:
            for at in self._slices(len(data)):
                fields = {name: values[at] for name, values in data.X_dict.items()}
                yield {name: rows.clone() for name, rows in fields.items()} if self._writes else fields
        elif self._in_memory:
            for at in self._indices():
                yield {
                    name: values.index_select(0, at.to(values.device)) for name, values in data.X_dict.items()
                }
        else:
            yield from self._noting_labels(data.batches(self._indices()) if self._gathers else self.loader)

    def _slices(self, n: int) -> Iterator[slice]:
        """Yield where each batch lies among ``n`` rows that are read in order."""
        end = 0
        while end < n:
            start, end = end, end + (self.rows or cast("int", self.loader.batch_size))
            yield slice(start, end)

    def _indices(self) -> Iterator[torch.Tensor]:
        """Yield the indices of each batch: successive ones of the loader's, until they are enough."""
        found: list[torch.Tensor] = []
        n = 0
        for indices in self.loader.index_batches():
            found.append(indices)
            if self._in_memory:
                # Parts of the order that the loader has drawn, where they are: no memory of their own.
                self._order.append(indices)
            n += indices.numel()
            if n >= (self.rows or 0):
                yield torch.cat(found)
                found, n = [], 0
        if found:
            yield torch.cat(found)

    def golds(self, label: str) -> torch.Tensor:
        """Return one label set's labels ``[n, …]`` of all rows that were read, on the CPU.

        They may be the dataset's own tensor, not to be written to.
        """
        values = self.loader.dataset.Y_dict[label]
        if self._in_order:
            return values.cpu()
        if self._in_memory:
            self._order = [_joined(self._order).to(torch.int64)]
            return values.index_select(0, self._order[0].to(values.device)).cpu()
        return _joined(self._read[label])

    def _noting_labels(self, batches: Iterable[tuple[XDict, dict[str, torch.Tensor]]]) -> Iterator[XDict]:
        for X_dict, Y_dict in batches:
            for label, read in self._read.items():
                read.append(Y_dict[label].cpu())
            yield X_dict


@dataclass(frozen=True)
class PathTraits:
    """What the modules on some tasks' paths say about the batches that they can take in evaluation mode.

    Attributes:
        row_by_row: Whether every row is known to be computed by itself.
        hooked: Whether a module has hooks, which may be there to see the loader's batches.
        width: About how many numbers the modules put out in all at each position of a row.
        writes: Whether one may write to what it reads.
    """

    row_by_row: bool
    hooked: bool
    width: int
    writes: bool

    @classmethod
    def of(cls, network: TaskNetwork, task_names: Sequence[str]) -> PathTraits:
        """Look at the paths of a network's tasks.

        Rows are known to be independent of one another on paths of linear layers, normalisation by the running
        statistics, activations, embeddings and the like, that end in an output function of the catalogue. Convolutions,
        recurrent layers and attention, whose memory may be large, and modules of one's own, which may look from one row
        to another, are not among them.
        """
        nodes = network.plan.nodes
        names = {nodes[node].module_name for node in network.plan.schedule(task_names)}
        modules = [module for name in names for module in network.module_pool[name].modules()]
        hooked = any(map(has_hooks, modules))
        known = not hooked and all(map(_is_row_by_row, modules))
        return cls(
            known and all(_is_row_by_row_output(network.tasks[name].output_func) for name in task_names),
            hooked,
            sum(map(_width, modules)),
            not known or any(vars(module).get("inplace", False) for module in modules),
        )

    def rows_at_once(self, loader: DictDataLoader) -> int | None:
        """Return how many rows a split's batches may have: None where they must be the loader's.

        Where rows are not known to be independent, it is to be found out first whether they are. Then batches are at
        most eight of the loader's, whose memory is that of the training with them at most, as no activations are kept.
        """
        if loader.collates_because:
            return None
        X_dict = loader.dataset.X_dict
        if self.row_by_row:
            positions = max(map(_positions, X_dict.values()), default=1)
            return min(_MOST_ROWS, max(1, ACTIVATION_BYTES // (4 * max(1, self.width * positions))))
        if self.hooked or loader.batch_size is None:
            return None
        rows = min(
            _MOST_ROWS_TRIED, _MOST_BATCHES_TRIED * loader.batch_size, ACTIVATION_BYTES // _row_bytes(X_dict)
        )
        return rows if rows >= 2 * loader.batch_size else None


def _is_row_by_row(module: nn.Module) -> bool:
    if type(module) not in _ROW_BY_ROW:
        return False
    match module:
        case nn.BatchNorm1d() | nn.BatchNorm2d() | nn.BatchNorm3d():
            # Without them, it takes the statistics of the batch.
            return module.running_mean is not None
        case nn.Embedding():
            return module.max_norm is None
        case Concat():
            return module.dim != 0
        case _:
            return True


def _is_row_by_row_output(output: Output) -> bool:
    return type(output.output if isinstance(output, ScaledOutput) else output) in _OUTPUTS


def _width(module: nn.Module) -> int:
    """Return about how many numbers a module puts out at each position of a row."""
    match module:
        case nn.Linear() | nn.Bilinear():
            return module.out_features
        case nn.Embedding():
            return module.embedding_dim
        case _:
            return 0


def _positions(values: Any) -> int:
    """Return at how many positions of a row of a field there are vectors, or indices."""
    if not isinstance(values, torch.Tensor):
        return 1
    shape = values.shape[1:]
    return max(1, (shape[:-1] if values.is_floating_point() else shape).numel())


def _row_bytes(X_dict: Mapping[str, torch.Tensor]) -> int:
    """Return how much memory the fields of a row take."""
    return max(1, sum(values.element_size() * values.shape[1:].numel() for values in X_dict.values()))


def _reads_all(loader: DictDataLoader, in_any_order: bool) -> bool:
    """Say whether a loader reads each row once, from the first to the last or in any order."""
    sampler, batches = cast("object", loader.sampler), cast("object", loader.batch_sampler)
    return (
        type(batches) is BatchSampler
        and cast("object", batches.sampler) is sampler
        and (type(sampler) is SequentialSampler or (in_any_order and type(sampler) is ShuffledSampler))
        and not loader.drop_last
    )


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return torch.cat(list(parts)) if parts else torch.empty(0)
