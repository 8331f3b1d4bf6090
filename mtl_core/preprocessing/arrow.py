"""What columns of raw values are."""

from __future__ import annotations

from typing import TypeAlias

import pyarrow as pa

Column: TypeAlias = pa.Array | pa.ChunkedArray
"""Raw values, one for each row."""
