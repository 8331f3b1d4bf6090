from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mtl_core import TrainerConfig
from mtl_core.training.log_writers import LogWriter, TensorBoardWriter


def test_scalars_are_written_as_lists_of_step_and_value(tmp_path: Path) -> None:
    writer = LogWriter(log_dir=str(tmp_path), run_name="run")
    writer.add_scalar("a/b/c/d", 0.5, 2)
    writer.add_scalar("a/b/c/d", math.nan, 4)
    writer.add_scalar("a/b/c/e", math.inf, 4)
    writer.write_log("some.json")
    writer.cleanup()
    expected = {"a/b/c/d": [[2, 0.5], [4, None]], "a/b/c/e": [[4, None]]}
    for name in ("some.json", "log.json"):
        assert json.loads((tmp_path / "run" / name).read_text()) == expected
    assert writer.log_dir == str(tmp_path / "run")


def test_settings_texts_and_objects_are_written_into_the_run_s_folder(tmp_path: Path) -> None:
    writer = LogWriter(log_dir=str(tmp_path), run_name="run")
    config = TrainerConfig(n_epochs=3)
    writer.write_config(config)
    writer.write_text("taskloom train …", "command.txt")
    writer.write_json({"x": [1.0, math.nan, {"y": (2, -math.inf)}]}, "x.json")
    folder = tmp_path / "run"
    assert TrainerConfig.model_validate_json((folder / "config.json").read_text()) == config
    assert (folder / "command.txt").read_text() == "taskloom train …"
    assert json.loads((folder / "x.json").read_text()) == {"x": [1.0, None, {"y": [2, None]}]}
    assert sorted(path.name for path in folder.iterdir()) == ["command.txt", "config.json", "x.json"]


def test_runs_without_a_name_have_a_folder_each(tmp_path: Path) -> None:
    writers = [LogWriter(log_dir=str(tmp_path)) for _ in range(3)]
    assert len({writer.log_dir for writer in writers}) == 3
    assert all(Path(writer.log_dir).is_dir() for writer in writers)


def test_tensorboard_gets_event_files(tmp_path: Path) -> None:
    writer = TensorBoardWriter(log_dir=str(tmp_path), run_name="run")
    writer.add_scalar("task/dataset/valid/accuracy", 0.75, 12.0)
    writer.write_config(TrainerConfig(n_epochs=3))
    writer.cleanup()
    (events,) = (tmp_path / "run").glob("events.out.tfevents.*")
    assert b"task/dataset/valid/accuracy" in events.read_bytes()
    assert b'"n_epochs":3' in events.read_bytes()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["n_epochs"] == 3


def test_what_is_no_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="log_root"):
        LogWriter(log_root=str(tmp_path))
