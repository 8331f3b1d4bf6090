"""A prediction of many rows: tables, some rows at a time → encoded fields → the tasks' paths → a file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa
import torch

from app.batch_predictions.files import FORMS, writer_of
from app.batch_predictions.service import ROW, SPLIT, question_of, request_of
from app.datasets.parts import read_part
from app.predictions.answering import Answers, Part, predictions_of
from app.predictions.batching import joined
from app.predictions.loaded import Loader
from app.predictions.rows import encode_fields
from app.runs.job import RowsRef
from app.worker.attempt import Attempt
from app.worker.reporting import RowsReporter
from mtl_core import TaskloomError
from mtl_core.preprocessing import ColumnError

_MOST_ROWS = 4096


def predict(attempt: Attempt) -> None:
    """Predict all rows of the job, at constant memory."""
    run, job, settings = attempt.run, attempt.job, attempt.settings
    request = request_of(run)
    version = attempt.version()
    loaded = Loader(attempt.store, settings.limits, attempt.encoders).load(version)
    route = loaded.route(question_of(request))
    fields = {name: loaded.preprocessing.fields[name] for name in route.fields}
    columns = list(dict.fromkeys(name for field in fields.values() for name in field.column_names))
    most_rows = max(1, min(_MOST_ROWS, settings.max_activations // max(1, loaded.activations)))
    n_rows = sum(ref.rows for ref in job.rows)
    reporter = RowsReporter(settings, attempt.claim, attempt.db, run, attempt.stop, n_rows)
    reporter.on_log(f"predicting {n_rows:,} rows with version {version.number}: tasks {list(route.tasks)}")
    form = FORMS[request.format]
    path = attempt.folder / f"predictions.{form.suffix}"
    writer = writer_of(request.format, path)
    with attempt.stop.heeded():
        for ref in job.rows:
            for start, batch in _batches(attempt, ref, [*columns, *request.keep], most_rows):
                raw = {name: batch.column(name) for name in columns}
                try:
                    arrays = encode_fields(fields, raw, loaded.encoders, loaded.fields)
                except ColumnError as error:
                    where = ref.named(None if error.row is None else start + error.row)
                    raise TaskloomError(f"{where}, column '{error.column}': {error.detail}") from error
                tensors = {
                    name: torch.from_numpy(joined([array], copy=route.paths.writes))
                    for name, array in arrays.items()
                }
                answers = Answers.of(route.paths.in_groups(tensors))
                writer.write(
                    _about(ref, start, batch, request.keep), predictions_of(route, Part(answers, None))
                )
                reporter.on_rows(batch.num_rows)
        writer.close()
    reporter.finish()
    filename = f"{run.model}-{version.number}-{run.id}.{form.suffix}"
    attempt.end_with_file(path, form.media_type, filename)


def _batches(
    attempt: Attempt, ref: RowsRef, columns: list[str], most_rows: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield rows some at a time, each batch with the number of its first row."""
    start = 0
    for part in ref.parts:
        for batch in read_part(attempt.store, part, list(dict.fromkeys(columns))):
            for offset in range(0, batch.num_rows, most_rows):
                some = batch.slice(offset, most_rows)
                yield start, some
                start += some.num_rows


def _about(ref: RowsRef, start: int, batch: pa.RecordBatch, keep: Sequence[str]) -> pa.Table:
    n = batch.num_rows
    about: dict[str, pa.Array] = {ROW: pa.array(np.arange(start, start + n, dtype=np.int64))}
    if ref.split is not None:
        about[SPLIT] = pa.array([ref.split] * n)
    return pa.table(about | {name: batch.column(name) for name in keep})
