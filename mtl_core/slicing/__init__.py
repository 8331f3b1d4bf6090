"""Slice-aware learning: named parts of the data with indicators and predictors of their own.

Source: Chen et al., "Slice-based Learning: A Programming Model for Residual Learning in Critical Data Slices"
(NeurIPS 2019), https://arxiv.org/abs/1909.06349.
"""

from mtl_core.slicing.appliers import ApplierMetadata, PandasSFApplier, SFApplier, slice_dataframe
from mtl_core.slicing.classifier import SliceAwareClassifier
from mtl_core.slicing.combiner import SliceCombinerModule
from mtl_core.slicing.functions import SlicingFunction, slicing_function
from mtl_core.slicing.labels import add_slice_labels, slice_labels, slice_remap
from mtl_core.slicing.predicates import fields_of, mask, slice_fields, slice_masks
from mtl_core.slicing.tasks import convert_to_slice_tasks

__all__ = [
    "ApplierMetadata",
    "PandasSFApplier",
    "SFApplier",
    "SliceAwareClassifier",
    "SliceCombinerModule",
    "SlicingFunction",
    "add_slice_labels",
    "convert_to_slice_tasks",
    "fields_of",
    "mask",
    "slice_dataframe",
    "slice_fields",
    "slice_labels",
    "slice_masks",
    "slice_remap",
    "slicing_function",
]
