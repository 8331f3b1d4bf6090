from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from app.settings import Settings


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in Settings.model_fields:
        monkeypatch.delenv(f"TASKLOOM_{name.upper()}", raising=False)


def test_the_defaults_are_a_laptops() -> None:
    settings = Settings()
    assert settings.host == "127.0.0.1"
    assert settings.is_embedded
    assert settings.resolved_database_url == f"sqlite:///{Path('data').resolve() / 'taskloom.db'}"
    assert not settings.allow_open


def test_each_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TASKLOOM_DATA_DIR", "/srv/taskloom")
    monkeypatch.setenv("TASKLOOM_MAX_BODY_MIB", "2")
    monkeypatch.setenv("TASKLOOM_MAX_PARAMETERS", "1000")
    settings = Settings()
    assert settings.resolved_database_url == "sqlite:////srv/taskloom/taskloom.db"
    assert settings.artifacts_dir == Path("/srv/taskloom/artifacts")
    assert settings.max_body_bytes == 2 * 2**20
    assert settings.limits.max_parameters == 1000
    monkeypatch.setenv("TASKLOOM_DATABASE_URL", "postgresql+psycopg://db/taskloom")
    assert not Settings().is_embedded
    assert Settings().resolved_database_url == "postgresql+psycopg://db/taskloom"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "65536"),
        ("WORKER_SLOTS", "0"),
        ("LEASE_SECONDS", "-1"),
        ("MAX_BODY_MIB", "much"),
        ("LOG_LEVEL", "loud"),
        ("ALLOW_OPEN", "perhaps"),
    ],
)
def test_values_out_of_range_are_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"TASKLOOM_{name}", value)
    with pytest.raises(ValidationError) as raised:
        Settings()
    assert raised.value.errors()[0]["loc"] == (name.lower(),)


def test_every_setting_is_documented() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
