from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from app.cli.main import cli


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keep settings that commands pass on to their children from the tests that follow."""
    before = dict(os.environ)
    for name in before:
        if name.startswith("TASKLOOM_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    for name in [name for name in os.environ if name.startswith("TASKLOOM_")]:
        del os.environ[name]
    os.environ.update(before)


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments)


def test_the_help_names_every_command() -> None:
    for words in ([], ["--help"]):
        shown = invoke(*words).output
        assert all(command in shown for command in ("serve", "worker", "demo", "db"))
        assert "TASKLOOM_" in shown
    assert "upgrade" in invoke("db", "--help").output
    assert all(option in invoke("serve", "--help").output for option in ("--host", "--port", "--data-dir"))
    assert invoke("--version").output.startswith("taskloom 0.")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "nowhere.invalid"])
def test_an_address_that_others_reach_is_refused(host: str) -> None:
    refused = invoke("serve", "--host", host, "--port", "0")
    assert refused.exit_code == 2
    assert f"'{host}'" in refused.stderr or "TASKLOOM_ALLOW_OPEN" in refused.stderr
    assert not Path("data").exists()


def test_a_port_in_use_is_refused_in_one_line() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        refused = invoke("serve", "--port", port, "--no-worker")
    assert refused.exit_code == 2
    assert port in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", [["serve"], ["worker"], ["db", "upgrade"]])
def test_settings_that_are_wrong_are_named(monkeypatch: pytest.MonkeyPatch, command: list[str]) -> None:
    monkeypatch.setenv("TASKLOOM_WORKER_SLOTS", "none")
    monkeypatch.setenv("TASKLOOM_MAX_BODY_MIB", "-1")
    refused = invoke(*command)
    assert refused.exit_code == 2
    assert "TASKLOOM_WORKER_SLOTS" in refused.stderr
    assert "TASKLOOM_MAX_BODY_MIB" in refused.stderr


def test_a_worker_refuses_a_database_that_is_behind(
    monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str]
) -> None:
    monkeypatch.setenv("TASKLOOM_DATABASE_URL", new_database())
    refused = invoke("worker")
    assert refused.exit_code == 2
    assert "taskloom db upgrade" in refused.stderr
    upgraded = invoke("db", "upgrade")
    assert upgraded.exit_code == 0
    assert "newest revision" in upgraded.stdout
