"""What the process that reads a file is told: how the client said to read it, and how much it may take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

FORMATS = ("csv", "jsonl", "parquet", "arrow", "npz", "safetensors")
COMPRESSIONS = ("none", "gzip", "bz2", "xz", "zstd", "lz4", "zip")
# What pandas takes for missing.
NULL_VALUES = (
    *("", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>"),
    *("N/A", "NA", "NULL", "NaN", "None", "n/a", "nan", "null"),
)


@dataclass(frozen=True)
class Options:
    """How a file is to be read; what is None is found out.

    Attributes:
        format: One of ``FORMATS``, as the client said.
        hint: The text format that the media type or the file's name suggests.
        compression: One of ``COMPRESSIONS``.
        encoding: Of text, as IANA or Python calls it.
        delimiter: Between the values of a CSV file's row.
        quote: Around values of a CSV file that hold delimiters or line breaks.
        header: Whether a CSV file's first row holds names.
        columns: Names of a CSV file's columns.
        null_values: What stands for a missing value in a CSV file, besides ``NULL_VALUES``.
    """

    format: str | None = None
    hint: str | None = None
    compression: str | None = None
    encoding: str | None = None
    delimiter: str | None = None
    quote: str | None = None
    header: bool | None = None
    columns: tuple[str, ...] | None = None
    null_values: tuple[str, ...] = ()

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Options:
        """Return the options that travelled as JSON."""
        columns = values.pop("columns")
        null_values = tuple(values.pop("null_values"))
        return cls(**values, columns=None if columns is None else tuple(columns), null_values=null_values)


@dataclass(frozen=True)
class Limits:
    """What reading one file may take.

    Attributes:
        max_columns: Columns.
        max_bytes: Bytes that the unpacked file may have, and those that its rows may take.
        memory_bytes: Memory of the process, beyond the files that it maps.
        seconds: Time.
    """

    max_columns: int
    max_bytes: int
    memory_bytes: int
    seconds: int
