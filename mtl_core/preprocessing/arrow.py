"""pyarrow as values of any type: it brings no types of its own."""

# pyright: reportMissingTypeStubs=false

from __future__ import annotations

from typing import Any, TypeAlias

import pyarrow
import pyarrow.compute

Column: TypeAlias = Any
"""A ``pyarrow.Array`` or ``pyarrow.ChunkedArray`` of raw values, one for each row."""

pa: Any = pyarrow
pc: Any = pyarrow.compute
types: Any = pyarrow.types
