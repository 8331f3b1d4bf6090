"""What a client writes for the columns of a field: which they are, and what is to be made of their values."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Literal, TypeAlias

from pydantic import ConfigDict, Field, model_validator

from mtl_core.documented import Documented

DatePart = Literal["elapsed", "year", "month", "day", "weekday", "hour", "minute"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
ColumnName = Annotated[str, Field(min_length=1, max_length=256)]
Value = Annotated[str, Field(max_length=1000)] | int | Finite
MissingValues = Annotated[list[Value], Field(max_length=1000)]

MAX_ONEHOT = 65_536


class _Column(Documented):
    model_config = ConfigDict(extra="forbid", frozen=True)

    name: ColumnName
    """The column's name in the table."""
    missing: MissingValues = Field(default=[])
    """Further values that mean "missing", compared as text without surrounding space."""


class NumberColumn(_Column):
    """Numbers, scaled; a missing one is replaced."""

    type: Literal["number"] = "number"
    scale: Literal["standard", "robust", "minmax", "log", "none"] = "standard"
    """By mean and deviation, by median and quartiles, to [0, 1], `sign(x)·log(1 + |x|)` and then by mean and
    deviation, or not at all; all as in the training data."""
    impute: Literal["mean", "median", "zero"] | Finite = "mean"
    """What stands for a missing number."""
    indicator: bool | None = None
    """Whether a further number says that the value is missing; default: where the training data misses some."""


class BooleanColumn(_Column):
    """True or false in any of the usual words, as 1 or 0; missing is 0.5."""

    type: Literal["boolean"] = "boolean"
    indicator: bool | None = None
    """Whether a further number says that the value is missing; default: where the training data misses some."""


class CategoricalColumn(_Column):
    """One of a set of values, as a one-hot vector or an index: 0 is any unknown value, 1 a missing one."""

    type: Literal["categorical"] = "categorical"
    encode: Literal["onehot", "index"] = "onehot"
    """Numbers for linear layers, or indices for an embedding."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """Rarer values of the training data count as unknown."""
    max_size: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """How many values are kept, the most frequent; default 256 for one-hot, 100,000 for indices."""
    hash_buckets: Annotated[int, Field(ge=1, le=2**24)] | None = None
    """In place of a vocabulary, values are hashed to this many indices from 2 on."""

    @model_validator(mode="after")
    def _check_width(self) -> CategoricalColumn:
        if self.encode == "onehot":
            for option, size in (("max_size", self.max_size), ("hash_buckets", self.hash_buckets)):
                if size is not None and size > MAX_ONEHOT:
                    raise ValueError(
                        f"column '{self.name}': {option} is at most {MAX_ONEHOT:,} with encode 'onehot',"
                        " take 'index'"
                    )
        return self

    @property
    def size(self) -> int:
        """How many values are kept at most, the default filled in."""
        return self.max_size or (256 if self.encode == "onehot" else 100_000)


class DatetimeColumn(_Column):
    """Dates or moments, as numbers; a date without zone is in UTC. A missing one is as good as the average."""

    type: Literal["datetime"] = "datetime"
    parts: Annotated[list[DatePart], Field(min_length=1, max_length=7)] | None = None
    """`elapsed` days and `year` are standardised, the others sine and cosine of their place in the period; default
    `elapsed`, `month`, `weekday`, and `hour` and `minute` where any training moment is not midnight."""
    indicator: bool | None = None
    """Whether a further number says that the value is missing; default: where the training data misses some."""

    @model_validator(mode="after")
    def _check_parts(self) -> DatetimeColumn:
        if self.parts is not None and len(set(self.parts)) < len(self.parts):
            raise ValueError(f"column '{self.name}': a part is named twice")
        return self


class TextColumn(_Column):
    """Text, as the indices of its words (0 pads, 1 is any unknown word), or by a sentence encoder."""

    type: Literal["text"] = "text"
    max_length: Annotated[int, Field(ge=1, le=65_536)] = 128
    """How many words are read; shorter texts are padded."""
    min_count: Annotated[int, Field(ge=1)] = 2
    """Rarer words of the training data count as unknown."""
    max_size: Annotated[int, Field(ge=1, le=100_000)] = 20_000
    """How many words are kept, the most frequent."""
    lowercase: bool = True
    """Whether words that differ in case only are one."""
    encoder: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """A sentence encoder that the operator installed: the field is then its vectors, and the options above count
    for nothing."""


class ListColumn(_Column):
    """Lists of numbers, cut or padded with 0 to one length; a missing number is 0."""

    type: Literal["list"] = "list"
    length: Annotated[int, Field(ge=1, le=65_536)] | None = None
    """Numbers of one example; default: the longest list of the training data, at most 4096."""


class SequenceColumn(_Column):
    """Lists of categories, as indices: 0 pads, 1 is any unknown or missing item."""

    type: Literal["sequence"] = "sequence"
    max_length: Annotated[int, Field(ge=1, le=65_536)] = 128
    """How many items are read; shorter lists are padded."""
    min_count: Annotated[int, Field(ge=1)] = 1
    """Rarer items of the training data count as unknown."""
    max_size: Annotated[int, Field(ge=1, le=100_000)] = 100_000
    """How many items are kept, the most frequent."""


class TensorColumn(_Column):
    """Arrays of one shape: float32, or int64 where they are integers and not scaled; what is missing is 0."""

    type: Literal["tensor"] = "tensor"
    scale: Literal["none", "standard", "minmax"] = "none"
    """Not at all, by mean and deviation, or to [0, 1], over all numbers of the training data."""


ColumnSpec: TypeAlias = Annotated[
    NumberColumn
    | BooleanColumn
    | CategoricalColumn
    | DatetimeColumn
    | TextColumn
    | ListColumn
    | SequenceColumn
    | TensorColumn,
    Field(discriminator="type"),
]


class FieldPlan(Documented):
    """The raw form of one field: numbers side by side, indices side by side, or one text, sequence or tensor."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: Annotated[list[ColumnSpec], Field(min_length=1, max_length=10_000)]
    """In the order in which they stand in an example."""

    @property
    def encoders(self) -> set[str]:
        """Names of the sentence encoders that the columns ask for."""
        return {
            column.encoder for column in self.columns if isinstance(column, TextColumn) and column.encoder
        }

    @model_validator(mode="after")
    def _check_columns(self) -> FieldPlan:
        name, n = Counter(column.name for column in self.columns).most_common(1)[0]
        if n > 1:
            raise ValueError(f"column '{name}' is named {n} times")
        kinds = [_kind(column) for column in self.columns]
        for column, kind in zip(self.columns, kinds, strict=True):
            if kind == "alone" and len(kinds) > 1:
                raise ValueError(f"column '{column.name}': a {column.type} is a field of its own")
            if kind != kinds[0]:
                raise ValueError(
                    f"column '{column.name}' gives {kind}, but column '{self.columns[0].name}' {kinds[0]}:"
                    " put them into two fields"
                )
        return self


def _kind(column: ColumnSpec) -> Literal["numbers", "indices", "alone"]:
    if isinstance(column, TextColumn | SequenceColumn | TensorColumn):
        return "alone"
    if isinstance(column, CategoricalColumn) and column.encode == "index":
        return "indices"
    return "numbers"
