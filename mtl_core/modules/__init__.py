"""The module types that a JSON spec may name."""

from mtl_core.modules.catalogue import (
    MODULES,
    build_module,
    canonical_module,
    count_layers,
    lazy_layers,
    resolve_module,
)

__all__ = ["MODULES", "build_module", "canonical_module", "count_layers", "lazy_layers", "resolve_module"]
