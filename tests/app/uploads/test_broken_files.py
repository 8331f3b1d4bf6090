"""A file that cannot be read is answered with what is wrong where."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.uploads.faults import UnreadableError
from app.uploads.reading import read_file
from app.uploads.schemas import UploadQuery
from app.uploads.service import text_format
from tests.app.uploads.broken_files import Broken, broken_files
from tests.app.uploads.conftest import LIMITS

FILES = [file for file in broken_files() if not file.breaks_down]


@pytest.mark.parametrize("file", FILES, ids=[file.filename for file in FILES])
def test_the_fault_is_found(file: Broken, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(file.data())
    options = UploadQuery.model_validate(file.query).options(text_format(file.filename))
    with pytest.raises(UnreadableError) as caught:
        read_file(path, tmp_path / "table", tmp_path, options, LIMITS)
    assert file.says in caught.value.detail, caught.value.detail
    assert len(caught.value.detail) < 5000
    assert file.row in (None, caught.value.row)
    assert file.column in (None, caught.value.column)


def test_there_are_enough_of_them() -> None:
    assert len(FILES) >= 60
    assert len({file.filename for file in FILES}) == len(FILES)
