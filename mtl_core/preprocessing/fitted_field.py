"""A field fitted to training data: raw columns in, examples out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from mtl_core.preprocessing.columns import Column, ColumnError
from mtl_core.preprocessing.fitted import (
    FittedBoolean,
    FittedDatetime,
    FittedIndex,
    FittedList,
    FittedNumber,
    FittedOneHot,
)
from mtl_core.preprocessing.fitted_arrays import (
    FittedSequence,
    FittedTensor,
    FittedText,
    SentenceEncoder,
    SentenceEncoderInfo,
)
from mtl_core.preprocessing.specs import FieldPlan
from mtl_core.specs import DType

FittedColumn: TypeAlias = (
    FittedNumber
    | FittedBoolean
    | FittedOneHot
    | FittedDatetime
    | FittedList
    | FittedIndex
    | FittedText
    | FittedSequence
    | FittedTensor
)


class FittedField(BaseModel):
    """A field's columns with all that encoding needs to know of the training data.

    Attributes:
        plan: What the field was to be made of.
        columns: The fitted columns, in the same order.

    Example:
        >>> import pyarrow as pa
        >>> from mtl_core.preprocessing import NumberColumn, Summariser, fit_field
        >>> column = NumberColumn(name="age")
        >>> summariser = Summariser(column)
        >>> summariser.add(pa.array([20, 40, None]), 0)
        >>> field = fit_field(FieldPlan(columns=[column]), {"age": summariser.finish()})
        >>> field.feature_names
        ['age', 'age is missing']
        >>> field.encode({"age": pa.array(["40", None])})
        array([[1., 0.],
               [0., 1.]], dtype=float32)
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    plan: FieldPlan
    columns: list[Annotated[FittedColumn, Field(discriminator="type")]]

    @property
    def shape(self) -> list[int]:
        """Shape of one example."""
        single = self._single
        return list(single.shape) if single is not None else [self._starts[-1]]

    @property
    def dtype(self) -> DType:
        """Type of the field's numbers: int64 for indices."""
        single = self._single
        if single is not None:
            return single.dtype
        return "int64" if isinstance(self.columns[0], FittedIndex) else "float32"

    @property
    def vocabulary(self) -> int | None:
        """Indices run from 0 to this minus one; None where the field has none, or its tensors' are not known."""
        single = self._single
        if single is not None:
            return single.vocabulary
        return sum(self._sizes) if isinstance(self.columns[0], FittedIndex) else None

    @property
    def encoders(self) -> dict[str, SentenceEncoderInfo]:
        """The sentence encoders that encoding needs, by name."""
        texts = [column for column in self.columns if isinstance(column, FittedText)]
        return {text.encoder: text.encoder_info for text in texts if text.encoder and text.encoder_info}

    @property
    def column_names(self) -> list[str]:
        """The columns that are read."""
        return [column.name for column in self.columns]

    @property
    def feature_names(self) -> list[str]:
        """What each of an example's numbers means; for indices, texts and tensors the columns' names."""
        return [
            feature
            for column in self.columns
            for feature in ([column.name] if isinstance(column, _SINGLE | FittedIndex) else column.features)
        ]

    def encode(
        self, columns: Mapping[str, Column], encoders: Mapping[str, SentenceEncoder] | None = None
    ) -> NDArray[Any]:
        """Return examples ``[n, *shape]``; a row is encoded the same whatever rows are beside it.

        Args:
            columns: Raw values ``[n]`` by column, all that the field reads.
            encoders: Sentence encoders by name, for text columns that name one.

        Raises:
            ColumnError: If a column is absent or of another length, or at a value that its type does not take.
        """
        arrays = self._arrays(columns)
        single = self._single
        if single is not None:
            return np.ascontiguousarray(single.encode(arrays[0], encoders or {}))
        n = len(arrays[0])
        if isinstance(self.columns[0], FittedIndex):
            return self._encode_indices(arrays, n)
        starts = self._starts
        block = np.zeros((n, starts[-1]), dtype=np.float32)
        for column, array, start, end in zip(self.columns, arrays, starts, starts[1:], strict=False):
            assert not isinstance(column, _SINGLE | FittedIndex)
            column.write(array, block[:, start:end])
        return block

    def _encode_indices(self, arrays: list[Column], n: int) -> NDArray[np.int64]:
        indices = np.empty((n, len(self.columns)), dtype=np.int64)
        offset = 0
        for k, (column, array) in enumerate(zip(self.columns, arrays, strict=True)):
            assert isinstance(column, FittedIndex)
            indices[:, k] = column.indices(array) + offset
            offset += column.size
        return indices

    @property
    def _single(self) -> FittedText | FittedSequence | FittedTensor | None:
        first = self.columns[0]
        return first if isinstance(first, _SINGLE) else None

    @property
    def _sizes(self) -> list[int]:
        return [column.size for column in self.columns if isinstance(column, FittedIndex)]

    @property
    def _starts(self) -> list[int]:
        """Where each column's numbers start, and where the last one's end."""
        widths = [
            1 if isinstance(column, _SINGLE | FittedIndex) else len(column.features)
            for column in self.columns
        ]
        return [0, *accumulate(widths)]

    def _arrays(self, columns: Mapping[str, Column]) -> list[Column]:
        arrays: list[Column] = []
        for name in self.column_names:
            if name not in columns:
                raise ColumnError(name, None, "is not there")
            arrays.append(columns[name])
            if len(arrays[-1]) != len(arrays[0]):
                first = self.column_names[0]
                detail = f"{len(arrays[-1])} rows, but {len(arrays[0])} in column '{first}'"
                raise ColumnError(name, None, detail)
        return arrays


_SINGLE = FittedText | FittedSequence | FittedTensor
