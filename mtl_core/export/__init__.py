"""Models to be taken elsewhere: bundles to import again, programs of torch.export, ONNX."""

from mtl_core.export.bundle import Bundle, read_bundle, write_bundle
from mtl_core.export.left_out import what_is_left_out
from mtl_core.export.onnx import OnnxCheck, check_onnx, export_onnx
from mtl_core.export.preprocessing import write_beside
from mtl_core.export.program import export_program, save_program
from mtl_core.export.served import ServedTasks

__all__ = [
    "Bundle",
    "OnnxCheck",
    "ServedTasks",
    "check_onnx",
    "export_onnx",
    "export_program",
    "read_bundle",
    "save_program",
    "what_is_left_out",
    "write_beside",
    "write_bundle",
]
