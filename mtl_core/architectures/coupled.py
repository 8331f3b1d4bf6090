"""Architectures in which tasks have layers of their own and hear of one another's."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mtl_core.architectures.base import ArchitectureBase, Layers
from mtl_core.architectures.outline import TaskOutline
from mtl_core.architectures.path import Path, Signal, linear, sequential


class CrossStitch(ArchitectureBase):
    """A tower for each task, mixed with the other towers after each layer by learnt weights (Misra et al., 2016,
    https://arxiv.org/abs/1604.03539)."""

    type: Literal["cross_stitch"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of each tower's layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        names = [task.name for task in path.tasks]
        x = path.read(self.inputs)
        flows = dict.fromkeys(names, x)
        for i, size in enumerate(self.layers, 1):
            towers = [path.add_stack(f"tower{i}_{name}", flows[name], [size]) for name in names]
            if len(names) == 1:
                # There is nobody to mix a lone tower with.
                flows = {names[0]: towers[0]}
                continue
            stitch = path.add(f"stitch{i}", {"type": "CrossStitch", "n_tasks": len(names)}, towers, size)
            flows = {name: Signal((str(stitch.source), j), size) for j, name in enumerate(names)}
        return flows[path.task.name]


class ESMM(ArchitectureBase):
    """Each task is told with all that come before it: its answer is the product of their probabilities and its own
    tower's (Ma et al., 2018, https://arxiv.org/abs/1804.07931)."""

    only_kind: ClassVar[str | None] = "binary"

    type: Literal["esmm"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of each tower's layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        return self._tower(path, path.task)

    def lay_out(self, path: Path) -> None:
        """See :meth:`ArchitectureBase.lay_out`."""
        chain = _up_to(path)
        logits = [path.add_head(task, self._tower(path, task)) for task in chain]
        if len(logits) > 1:
            path.add(f"joint_{path.task.name}", {"type": "JointProbability"}, logits, 1)

    def _tower(self, path: Path, task: TaskOutline) -> Signal:
        return path.add_stack(f"tower_{task.name}", path.read(self.inputs), self.layers)


class AITM(ArchitectureBase):
    """A tower for each task, which attends to what the task before it passes on (Xi et al., 2021,
    https://arxiv.org/abs/2105.08489)."""

    only_kind: ClassVar[str | None] = "binary"

    type: Literal["aitm"]
    layers: Layers = Field(default=[64, 32])
    """Sizes of each tower's layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        x, size = path.read(self.inputs), self.layers[-1]
        first, *others = _up_to(path)
        z = path.add_stack(f"tower_{first.name}", x, self.layers)
        for task in others:
            passed_on = sequential([linear(size, size), *path.style.activate()])
            p = path.add(f"info_{task.name}", passed_on, [z], size)
            q = path.add_stack(f"tower_{task.name}", x, self.layers)
            z = path.add(
                f"transfer_{task.name}", {"type": "InformationTransfer", "features": size}, [p, q], size
            )
        return z


def _up_to(path: Path) -> list[TaskOutline]:
    """Return the tasks up to the path's own."""
    position = next(i for i, task in enumerate(path.tasks) if task.name == path.task.name)
    return list(path.tasks[: position + 1])
