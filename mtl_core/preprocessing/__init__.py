"""From raw columns to tensors: what a field is made of, fitted to training data, and applied the same ever after."""

from mtl_core.preprocessing.columns import ColumnError
from mtl_core.preprocessing.counting import Moments
from mtl_core.preprocessing.fitted_arrays import SentenceEncoder, SentenceEncoderInfo
from mtl_core.preprocessing.fitted_field import FittedField
from mtl_core.preprocessing.fitting import fit_field
from mtl_core.preprocessing.inference import infer_column
from mtl_core.preprocessing.labels import (
    FittedLabel,
    LabelSpec,
    LabelSummariser,
    LabelSummary,
    class_names_of,
    fit_label,
)
from mtl_core.preprocessing.records import columns_from_lists, columns_from_records
from mtl_core.preprocessing.specs import (
    BooleanColumn,
    CategoricalColumn,
    ColumnSpec,
    DatetimeColumn,
    FieldPlan,
    ListColumn,
    NumberColumn,
    SequenceColumn,
    TensorColumn,
    TextColumn,
)
from mtl_core.preprocessing.summaries import ColumnSummary, merge_summaries
from mtl_core.preprocessing.summarising import Summariser

__all__ = [
    "BooleanColumn",
    "CategoricalColumn",
    "ColumnError",
    "ColumnSpec",
    "ColumnSummary",
    "DatetimeColumn",
    "FieldPlan",
    "FittedField",
    "FittedLabel",
    "LabelSpec",
    "LabelSummariser",
    "LabelSummary",
    "ListColumn",
    "Moments",
    "NumberColumn",
    "SentenceEncoder",
    "SentenceEncoderInfo",
    "SequenceColumn",
    "Summariser",
    "TensorColumn",
    "TextColumn",
    "class_names_of",
    "columns_from_lists",
    "columns_from_records",
    "fit_field",
    "fit_label",
    "infer_column",
    "merge_summaries",
]
