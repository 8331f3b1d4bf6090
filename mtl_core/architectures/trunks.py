"""Architectures with one trunk for all tasks, adapted to each or not, and the baseline with none."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from mtl_core.architectures.base import ArchitectureBase, FieldName, Layers
from mtl_core.architectures.outline import Size
from mtl_core.architectures.path import Path, Signal, sequential


class SharedBottom(ArchitectureBase):
    """All tasks share every layer up to their heads (Caruana, 1997, https://doi.org/10.1023/A:1007379606734)."""

    type: Literal["shared_bottom"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of the shared layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        return path.add_stack("trunk", path.read(self.inputs), self.layers)


class SingleTask(ArchitectureBase):
    """Each task has layers of its own and shares nothing: what sharing is measured against."""

    type: Literal["single_task"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of each task's layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        return path.add_stack(f"tower_{path.task.name}", path.read(self.inputs), self.layers)


class FiLM(ArchitectureBase):
    """Shared layers, each scaled and shifted by the task before its activation (Perez et al., 2018,
    https://arxiv.org/abs/1709.07871)."""

    type: Literal["film"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of the shared layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        x = path.read(self.inputs)
        for i, size in enumerate(self.layers, 1):
            x = path.add(f"layer{i}", sequential(self.style.linear(x.size, size)), [x], size)
            film = sequential([{"type": "FiLM", "features": size}, *self.style.activate()])
            x = path.add(f"film{i}_{path.task.name}", film, [x], size)
        return x


class Adapters(ArchitectureBase):
    """Shared layers, each followed by a small bottleneck of the task's own (Houlsby et al., 2019,
    https://arxiv.org/abs/1902.00751)."""

    type: Literal["adapters"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of the shared layers."""
    bottleneck: Size = 8
    """Size within an adapter."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        x = path.read(self.inputs)
        for i, size in enumerate(self.layers, 1):
            x = path.add_stack(f"layer{i}", x, [size])
            adapter = {"type": "Adapter", "in_features": size, "bottleneck": self.bottleneck}
            x = path.add(f"adapter{i}_{path.task.name}", adapter, [x], size)
        return x


class AttentionPooling(ArchitectureBase):
    """Embeds the tokens of one field, pools them by attention and shares all further layers (Lin et al., 2017,
    https://arxiv.org/abs/1703.03130)."""

    type: Literal["attention_pooling"]
    inputs: Annotated[list[FieldName], Field(min_length=1, max_length=1)] = Field(
        default=["text"], examples=[["text"]]
    )
    """The one field of token indices, `[L]` for an example."""
    vocabulary: Annotated[int, Field(strict=True, ge=1, le=10_000_000)] | None = Field(
        default=None, examples=[1000]
    )
    """How many indices there are; default: as many as the field's data has, which a dataset of texts tells."""
    padding_idx: Annotated[int, Field(strict=True, ge=0)] | None = Field(default=0, examples=[0])
    """The index that fills up short rows and is not attended to; null: none."""
    embedding_dim: Size = 32
    """Numbers for each token."""
    heads: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    """How many weighted means are taken over the tokens, side by side."""
    layers: Layers = Field(default=[64, 32])
    """Sizes of the shared layers after pooling."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        ids = path.read(self.inputs)
        embedding = {"embedding_dim": self.embedding_dim, "padding_idx": self.padding_idx}
        if self.vocabulary is None:
            embedding |= {"type": "LazyEmbedding"}
        else:
            embedding |= {"type": "Embedding", "num_embeddings": self.vocabulary}
        tokens = path.add("embedding", embedding, [ids], self.embedding_dim)
        pooling = {"type": "AttentionPooling", "in_features": self.embedding_dim, "heads": self.heads}
        pooling |= {"padding_idx": self.padding_idx}
        pooled = path.add("pooling", pooling, [tokens, ids], self.heads * self.embedding_dim)
        return path.add_stack("trunk", pooled, self.layers)
