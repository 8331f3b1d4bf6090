"""Uploads as they travel over HTTP."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from app.uploads.options import Options
from app.wire import In, Out, shown_as

_PRINTABLE = r"^[^\x00-\x1f\x7f]+$"
_ONE_CHARACTER = r"^[\t\x20-\x7e]$"

_COLUMN: dict[str, Any] = {
    "name": "age",
    "dtype": "int64",
    "shape": [],
    "nulls": 0,
    "distinct": 2,
    "distinct_is_exact": True,
    "min": 38,
    "max": 52,
    "mean": 45.0,
    "mean_length": None,
    "top": [[38, 1], [52, 1]],
}
_UPLOAD: dict[str, Any] = {
    "id": "upl_01KD8Z6Y0000000000000000AB",
    "filename": "people.csv",
    "sha256": "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae",
    "bytes": 14,
    "format": "csv",
    "read_as": {
        "format": "csv",
        "compression": "none",
        "encoding": "utf_8",
        "delimiter": ",",
        "quote": '"',
        "strip": False,
        "header": True,
        "columns": ["age"],
        "null_values": [],
    },
    "rows": 2,
    "columns": [_COLUMN],
    "preview": [{"age": 38}, {"age": 52}],
    "warnings": [],
    "created_at": "2026-01-02T03:04:05Z",
}

Format = Literal["csv", "jsonl", "parquet", "arrow", "npz", "safetensors"]
Compression = Literal["none", "gzip", "bz2", "xz", "zstd", "lz4", "zip"]


class ReadingIn(In, use_attribute_docstrings=True):
    """How a file is to be read; what is left out is found out."""

    format: Format | None = None
    """The file's format; by default its content, then its media type, then its name tell."""
    compression: Compression | None = None
    """How a text file is compressed; a zip archive holds one file."""
    encoding: Annotated[str, Field(pattern=r"^[A-Za-z0-9_. :-]{1,40}$")] | None = None
    """Text encoding, such as `utf-8` or `windows-1252`."""
    delimiter: Annotated[str, Field(pattern=_ONE_CHARACTER)] | None = None
    """CSV: what stands between values."""
    quote: Annotated[str, Field(pattern=_ONE_CHARACTER)] | None = None
    """CSV: what stands around values that hold delimiters or line breaks; `"` by default."""
    header: bool | None = None
    """CSV: whether the first row holds the columns' names."""
    columns: Annotated[list[str], Field(min_length=1, max_length=100_000)] | None = None
    """CSV: the columns' names; in a query repeated, or separated by commas."""
    null_values: list[Annotated[str, Field(max_length=256)]] = Field([], max_length=100)
    """CSV: what else stands for a missing value, besides an empty one, `NA`, `NaN`, `null` and the like."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.delimiter is not None and self.delimiter == (self.quote or '"'):
            raise ValueError("delimiter and quote are the same")
        return self

    def options(self, hint: str | None) -> Options:
        """Return the options, with the text format that media type or name suggest."""
        columns = self.columns
        if columns is not None and len(columns) == 1:
            columns = columns[0].split(",")
        return Options(
            format=self.format,
            hint=hint,
            compression=self.compression,
            encoding=self.encoding,
            delimiter=self.delimiter,
            quote=self.quote,
            header=self.header,
            columns=None if columns is None else tuple(name.strip() for name in columns),
            null_values=tuple(self.null_values),
        )


class UploadQuery(ReadingIn, use_attribute_docstrings=True):
    """What a request whose body is the file says of it."""

    filename: Annotated[str, Field(max_length=255, pattern=_PRINTABLE)] | None = None
    """The file's name; by default that of `Content-Disposition`."""


class SourceIn(
    ReadingIn, json_schema_extra=shown_as({"upload": "people.csv", "delimiter": ",", "header": True})
):
    """A file that is there already: where the operator allows, or an earlier upload, to be read otherwise."""

    url: Annotated[str, Field(max_length=4096)] | None = None
    """A `file://` or `s3://` URL below one of the places that the operator allows."""
    upload: Annotated[str, Field(max_length=255)] | None = None
    """An upload's id, or the filename of the newest that has it."""

    @model_validator(mode="after")
    def _check_source(self) -> Self:
        if (self.url is None) == (self.upload is None):
            raise ValueError("give either 'url' or 'upload'")
        return self


class ColumnOut(Out):
    """One column of a table."""

    name: str
    dtype: str
    """`int64`, `float64`, `float32`, `bool`, `string`, `date`, `timestamp`, `list<…>`; that of a tensor's numbers."""
    shape: list[int]
    """Shape of a tensor in one row; `[]` for a single value."""
    nulls: int
    """Rows without a value; NaN counts as none."""
    distinct: int | None
    """Distinct values; null for lists and tensors."""
    distinct_is_exact: bool
    """Whether `distinct` is exact; else there are at least as many."""
    min: float | int | bool | str | None
    max: float | int | bool | str | None
    mean: float | None
    """Mean of the finite numbers."""
    mean_length: float | None
    """Mean length of texts, in characters, or of lists."""
    top: list[list[Any]]
    """The five most frequent values, each with its count; empty where distinct values were not all counted."""


class UploadOut(Out, json_schema_extra=shown_as(_UPLOAD)):
    """A file and what was read in it."""

    id: str
    filename: str | None
    sha256: str
    """Checksum of the file as it came."""
    bytes: int
    format: str
    read_as: dict[str, Any]
    """How the file was read, what was found out included."""
    rows: int
    columns: list[ColumnOut]
    preview: list[dict[str, Any]]
    """The first ten rows; long texts are cut, large tensors left out."""
    warnings: list[str]
    created_at: datetime


class RecordsOut(
    Out, json_schema_extra=shown_as({"offset": 0, "rows": 2, "records": [{"age": 38}, {"age": 52}]})
):
    """Some consecutive rows of a table."""

    offset: int
    rows: int
    """How many rows the table has in all."""
    records: list[dict[str, Any]]
    """Missing values, and numbers that are not finite, are null."""
