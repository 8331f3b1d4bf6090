"""Memory that the programs of one training share."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import torch


class Buffers:
    """Tensors by key, for batches of up to some number of examples; smaller batches use the first rows.

    Args:
        rows: Most examples of a batch.
        device: Where the tensors are.
    """

    def __init__(self, rows: int, device: torch.device) -> None:
        self._rows = rows
        self._device = device
        self._tensors: dict[Hashable, torch.Tensor] = {}

    def rows(
        self, key: Hashable, n: int, shape: Sequence[int] = (), dtype: torch.dtype = torch.float32
    ) -> torch.Tensor:
        """Return the tensor ``[n, …]`` of a key, whose content is whatever was written to it last.

        Args:
            key: What it is for, its shape and dtype apart.
            n: How many rows.
            shape: Shape of one row.
            dtype: Type of its numbers.
        """
        return self._kept((key, *shape, dtype), [self._rows, *shape], dtype)[:n]

    def fixed(self, key: Hashable, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> torch.Tensor:
        """Return the tensor of a key, of a shape that no batch changes."""
        return self._kept((key, *shape, dtype), shape, dtype)

    def ones(self, n: int) -> torch.Tensor:
        """Return ``n`` ones, not to be written to."""
        return self._all("ones", 1.0, n)

    def minus_ones(self, n: int) -> torch.Tensor:
        """Return ``n`` times -1, not to be written to."""
        return self._all("minus ones", -1.0, n)

    def _all(self, key: str, value: float, n: int) -> torch.Tensor:
        if key not in self._tensors or len(self._tensors[key]) < n:
            self._tensors[key] = torch.full([max(n, self._rows)], value, device=self._device)
        return self._tensors[key][:n]

    def _kept(self, key: Hashable, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        if key not in self._tensors:
            self._tensors[key] = torch.zeros(shape, dtype=dtype, device=self._device)
        return self._tensors[key]
