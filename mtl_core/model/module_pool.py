"""A model's modules by name."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn


class ModulePool(nn.Module):
    """A model's modules by name: any name that a task may give, where ``nn.ModuleDict`` refuses dots.

    Example:
        >>> pool = ModulePool()
        >>> pool["head.v2"] = nn.Linear(1, 1)
        >>> list(pool), list(pool.state_dict())
        (['head.v2'], ['head%2Ev2.weight', 'head%2Ev2.bias'])
    """

    def __setitem__(self, name: str, module: nn.Module) -> None:
        self._modules[_attribute(name)] = module

    def __getitem__(self, name: str) -> nn.Module:
        module = self._modules[_attribute(name)]
        assert module is not None
        return module

    def __delitem__(self, name: str) -> None:
        del self._modules[_attribute(name)]

    def __contains__(self, name: str) -> bool:
        return _attribute(name) in self._modules

    def __iter__(self) -> Iterator[str]:
        return (key.replace("%2E", ".").replace("%25", "%") for key in self._modules)

    def __len__(self) -> int:
        return len(self._modules)

    def keys(self) -> Iterator[str]:
        """Yield each module's name."""
        return iter(self)

    def values(self) -> Iterator[nn.Module]:
        """Yield each module."""
        return (self[name] for name in self)

    def items(self) -> Iterator[tuple[str, nn.Module]]:
        """Yield each module with its name."""
        return ((name, self[name]) for name in self)

    def rename(self, old: str, new: str) -> None:
        """Call a module by another name; it keeps its place among the others."""
        renamed = [(new if name == old else name, module) for name, module in self.items()]
        self._modules.clear()
        for name, module in renamed:
            self[name] = module


def _attribute(name: str) -> str:
    # A dot in a child's name would make its parameters' names ambiguous in a state dict.
    return name.replace("%", "%25").replace(".", "%2E")
