"""An export: a version → a bundle, a program or an ONNX file, with what is left out beside it."""

from __future__ import annotations

import zipfile
from pathlib import Path

from app.exports.service import request_of
from app.predictions.loaded import shapes_of
from app.runs.preprocessing import Preprocessing, load_preprocessing
from app.worker.attempt import Attempt
from app.worker.reporting import Reporter
from mtl_core import (
    MultitaskClassifier,
    TaskloomError,
    check_onnx,
    export_onnx,
    export_program,
    load_module_weights,
    module_weights,
    save_program,
    write_beside,
    write_bundle,
)
from mtl_core.building.fields import FieldShapes
from mtl_core.building.tasks import build_tasks
from mtl_core.specs import TaskSpec

_LARGEST_DIFFERENCE = 1e-3


def export(attempt: Attempt) -> None:
    """Export the version in the form that is wanted."""
    run, request = attempt.run, request_of(attempt.run)
    version = attempt.version()
    reporter = Reporter(attempt.settings, attempt.claim, attempt.db, run, attempt.stop)
    specs = [TaskSpec.model_validate(spec) for spec in version.tasks]
    specs = [spec for spec in specs if request.tasks is None or spec.name in request.tasks]
    names = [spec.name for spec in specs]
    classifier = MultitaskClassifier(build_tasks(specs), name=version.model, device=-1)
    load_module_weights(classifier, attempt.store.load_tensors(version.sha256))
    classifier.eval()
    reading = {field for task in classifier.tasks.values() for field in task.fields}
    fields = {name: shape for name, shape in shapes_of(version).items() if name in reading}
    preprocessing = None
    if version.preprocessing is not None:
        known = load_preprocessing(attempt.store, version.preprocessing)
        preprocessing = _of_tasks(known, names, fields).model_dump_json()
    archive = attempt.folder / "export.zip"
    if request.format == "bundle":
        write_bundle(archive, specs, module_weights(classifier), fields, preprocessing)
    else:
        folder = attempt.folder / "export"
        folder.mkdir()
        if request.format == "program":
            save_program(export_program(classifier, names, fields), folder / "model.pt2")
        else:
            export_onnx(classifier, names, fields, folder / "model.onnx")
            reporter.on_log(_checked(folder / "model.onnx", classifier, names, fields))
        write_beside(folder, fields, preprocessing)
        with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
            for path in sorted(folder.iterdir()):
                zipped.write(path, path.name)
    reporter.finish()
    filename = f"{version.model}-{version.number}-{request.format}.zip"
    attempt.end_with_file(archive, "application/zip", filename)


def _of_tasks(preprocessing: Preprocessing, names: list[str], fields: FieldShapes) -> Preprocessing:
    """Return what some tasks need of a preprocessing."""
    return Preprocessing(
        fields={name: field for name, field in preprocessing.fields.items() if name in fields},
        class_names={name: of for name, of in preprocessing.class_names.items() if name in names},
        target_scales={name: of for name, of in preprocessing.target_scales.items() if name in names},
    )


def _checked(path: Path, classifier: MultitaskClassifier, names: list[str], fields: FieldShapes) -> str:
    """Hold an ONNX file against the model, and say how that went.

    Raises:
        TaskloomError: If onnxruntime answers otherwise.
    """
    check = check_onnx(path, classifier, names, fields)
    said = f"the largest difference is {check.largest_difference:.1g}, on batches of {check.rows} rows"
    if not check.largest_difference <= _LARGEST_DIFFERENCE:
        raise TaskloomError(f"onnxruntime answers otherwise than the model does: {said}")
    return f"onnxruntime answers as the model does: {said}"
