"""Layers that leave their input's size open, until the data that a model is trained on tells it.

Most are torch's own lazy layers, which take their size from the first input they see, and those of our own that do the
same (:mod:`mtl_core.modules.sized`). An embedding's number of rows shows in no input, so :class:`LazyEmbedding` waits
for the vocabulary of the field that feeds it.
"""

from __future__ import annotations

from typing import Any, Final

from torch import nn


class LazyEmbedding(nn.Module):
    """An Embedding with a row for each index of the field that feeds it: must come first in its module.

    Args:
        embedding_dim: Numbers in each row.
        padding_idx: The index whose row stays zero and is not trained; default: none.
    """

    def __init__(self, embedding_dim: int, padding_idx: int | None = None) -> None:
        super().__init__()
        self.embedding_dim = embedding_dim
        self.padding_idx = padding_idx

    def forward(self, *inputs: Any) -> Any:
        """Refuse any input: how many rows there are must be known first.

        Raises:
            ValueError: Always.
        """
        raise ValueError("LazyEmbedding has no rows yet: its task must be resolved first")


PLAIN: Final = {
    "LazyLinear": ("Linear", "in_features"),
    "LazyConv1d": ("Conv1d", "in_channels"),
    "LazyConv2d": ("Conv2d", "in_channels"),
    "LazyBatchNorm1d": ("BatchNorm1d", "num_features"),
    "LazyEmbedding": ("Embedding", "num_embeddings"),
    "LazyGate": ("Gate", "in_features"),
    "LazyDSelectK": ("DSelectK", "in_features"),
    "LazyAdapter": ("Adapter", "in_features"),
    "LazyAttentionPooling": ("AttentionPooling", "in_features"),
    "LazyInformationTransfer": ("InformationTransfer", "features"),
}
"""For each lazy layer the plain one that it stands for, and the argument that it leaves open."""
