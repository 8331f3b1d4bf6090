"""Architectures of experts: several stacks side by side, of which each task's gate makes a mixture."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator

from mtl_core.architectures.base import ArchitectureBase, Layers
from mtl_core.architectures.path import Path, Signal

_Count = Annotated[int, Field(strict=True, ge=1, le=256)]


def _add_experts(path: Path, module: str, x: Signal, n: int, layers: list[int]) -> Signal:
    spec = {"type": "Experts", "n_experts": n, "layers": path.style.stack(x.size, layers)}
    return path.add(module, spec, [x], layers[-1])


def _add_gate(
    path: Path, module: str, x: Signal, experts: list[Signal], type_: str = "Gate", **arguments: Any
) -> Signal:
    sized = {"type": f"Lazy{type_}"} if x.size is None else {"type": type_, "in_features": x.size}
    return path.add(module, sized | arguments, [x, *experts], experts[0].size)


class MMoE(ArchitectureBase):
    """Multi-gate mixture of experts: experts for all, weighed by a gate of each task's own (Ma et al., 2018,
    https://doi.org/10.1145/3219819.3220007)."""

    type: Literal["mmoe"]
    experts: _Count = 4
    """How many experts."""
    expert_layers: Layers = Field(default=[64, 32])
    """Sizes of each expert's layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        x = path.read(self.inputs)
        experts = _add_experts(path, "experts", x, self.experts, self.expert_layers)
        return _add_gate(path, f"gate_{path.task.name}", x, [experts], n_experts=self.experts)


class DSelectK(ArchitectureBase):
    """As ``mmoe``, but each task's gate comes to choose k of the experts only (Hazimeh et al., 2021,
    https://arxiv.org/abs/2106.03760)."""

    type: Literal["dselect_k"]
    experts: _Count = 8
    """How many experts."""
    k: _Count = Field(default=2, validate_default=True)
    """How many of them a task uses at most."""
    expert_layers: Layers = Field(default=[64, 32])
    """Sizes of each expert's layers."""

    @field_validator("k")
    @classmethod
    def _has_experts_to_choose_from(cls, k: int, known: ValidationInfo) -> int:
        if k > (experts := known.data.get("experts", k)):
            raise ValueError(f"a task would use {k} experts, but there are {experts}")
        return k

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        x = path.read(self.inputs)
        experts = _add_experts(path, "experts", x, self.experts, self.expert_layers)
        return _add_gate(
            path, f"gate_{path.task.name}", x, [experts], type_="DSelectK", n_experts=self.experts, k=self.k
        )


class CGC(ArchitectureBase):
    """Customised gate control: each task's gate weighs experts of its own and shared ones (Tang et al., 2020,
    https://doi.org/10.1145/3383313.3412236)."""

    type: Literal["cgc"]
    shared_experts: _Count = 2
    """How many experts all tasks share."""
    task_experts: _Count = 2
    """How many experts each task has for itself."""
    expert_layers: Layers = Field(default=[64, 32])
    """Sizes of each expert's layers."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        x, task = path.read(self.inputs), path.task.name
        own = _add_experts(path, f"experts_{task}", x, self.task_experts, self.expert_layers)
        shared = _add_experts(path, "experts", x, self.shared_experts, self.expert_layers)
        n_experts = self.task_experts + self.shared_experts
        return _add_gate(path, f"gate_{task}", x, [own, shared], n_experts=n_experts)


class PLE(ArchitectureBase):
    """Progressive layered extraction: levels of ``cgc``, each but the last with a shared gate over everybody's experts
    (Tang et al., 2020, https://doi.org/10.1145/3383313.3412236)."""

    type: Literal["ple"]
    shared_experts: _Count = 2
    """How many experts of a level all tasks share."""
    task_experts: _Count = 2
    """How many experts of a level each task has for itself."""
    expert_layers: Layers = Field(default=[32])
    """Sizes of each expert's layers."""
    levels: Annotated[int, Field(strict=True, ge=1, le=4)] = 2
    """How many levels of experts."""

    def representation(self, path: Path) -> Signal:
        """See :meth:`ArchitectureBase.representation`."""
        return self._of_task(path, path.task.name, self.levels)

    def _of_task(self, path: Path, task: str, level: int) -> Signal:
        """Return what a task's gate of a level answers; of level 0, the input."""
        if level == 0:
            return path.read(self.inputs)
        name = f"gate{level}_{task}"
        if name in path:
            return Signal(name, self.expert_layers[-1])
        x = self._of_task(path, task, level - 1)
        experts = [self._own(path, task, level), self._shared(path, level)]
        return _add_gate(path, name, x, experts, n_experts=self.task_experts + self.shared_experts)

    def _of_all(self, path: Path, level: int) -> Signal:
        """Return what the shared gate of a level answers; of level 0, the input."""
        if level == 0:
            return path.read(self.inputs)
        name = f"gate{level}"
        if name in path:
            return Signal(name, self.expert_layers[-1])
        x = self._of_all(path, level - 1)
        experts = [self._own(path, task.name, level) for task in path.tasks] + [self._shared(path, level)]
        n_experts = len(path.tasks) * self.task_experts + self.shared_experts
        return _add_gate(path, name, x, experts, n_experts=n_experts)

    def _own(self, path: Path, task: str, level: int) -> Signal:
        x = self._of_task(path, task, level - 1)
        return _add_experts(path, f"experts{level}_{task}", x, self.task_experts, self.expert_layers)

    def _shared(self, path: Path, level: int) -> Signal:
        x = self._of_all(path, level - 1)
        return _add_experts(path, f"experts{level}", x, self.shared_experts, self.expert_layers)
