from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest
import structlog

from app.logs import configure_logs, get_logger
from app.settings import Settings


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_every_logger_writes_one_json_object_a_line_with_the_ids_at_hand(
    capsys: pytest.CaptureFixture[str],
) -> None:
    configure_logs(Settings(log_format="json", log_level="info"))
    with structlog.contextvars.bound_contextvars(request_id="req_1", run_id="run_1"):
        get_logger("app.here").info("over\nlines", n=1)
        logging.getLogger("elsewhere").warning("by %s", "hand")
    get_logger("app.here").debug("unseen")
    ours, theirs = lines(capsys)
    assert (ours["event"], ours["level"], ours["logger"], ours["n"]) == ("over\nlines", "info", "app.here", 1)
    assert (theirs["event"], theirs["level"], theirs["logger"]) == ("by hand", "warning", "elsewhere")
    for line in (ours, theirs):
        assert (line["request_id"], line["run_id"]) == ("req_1", "run_1")
        assert str(line["timestamp"]).endswith("Z")


def test_an_exception_is_one_line_too(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="json"))
    try:
        raise RuntimeError("on purpose")
    except RuntimeError:
        get_logger("app.here").exception("failed")
    (line,) = lines(capsys)
    assert "RuntimeError: on purpose" in str(line["exception"])
    assert "Traceback" in str(line["exception"])


def test_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logs(Settings(log_format="console"))
    get_logger("app.here").info("hello", n=1)
    written = capsys.readouterr().err
    assert "hello" in written
    assert "n=1" in written
