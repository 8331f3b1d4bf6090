"""Where the log of a training goes: a JSON file, or the event files of TensorBoard."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime
from itertools import count
from pathlib import Path
from typing import Any, cast

import torch
from pydantic import BaseModel

from mtl_core.files import written_whole
from mtl_core.training.config import LogWriterConfig


class LogWriter:
    """Keeps scalars and writes them, when training ends, to ``log.json`` in the folder of the run.

    Args:
        **kwargs: The fields of :class:`~mtl_core.training.config.LogWriterConfig`.

    Attributes:
        config: The settings.
        run_name: The run's name; without one in the settings, the date and time of its start.
        log_dir: The run's folder.
        run_log: By name, the scalars as ``[step, value]``.

    Raises:
        pydantic.ValidationError: If a setting is unknown or out of range.
    """

    def __init__(self, **kwargs: Any) -> None:
        self.config = LogWriterConfig(**kwargs)
        self.run_name = self.config.run_name or _free_name(Path(self.config.log_dir))
        self.log_dir = str(Path(self.config.log_dir) / self.run_name)
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        self.run_log: defaultdict[str, list[list[float]]] = defaultdict(list)

    def add_scalar(self, name: str, value: float, step: float) -> None:
        """Keep one value of a series.

        Args:
            name: The series.
            value: The value; NaN where it is undefined.
            step: Where on the series' axis it stands; the trainer counts examples.
        """
        self.run_log[name].append([step, float(value)])

    def write_config(self, config: BaseModel, config_filename: str = "config.json") -> None:
        """Write settings as JSON into the run's folder."""
        self.write_json(config.model_dump(mode="json"), config_filename)

    def write_log(self, log_filename: str) -> None:
        """Write the scalars so far as JSON into the run's folder."""
        self.write_json(self.run_log, log_filename)

    def write_text(self, text: str, filename: str) -> None:
        """Write a text into the run's folder."""
        with written_whole(Path(self.log_dir) / filename) as scratch:
            scratch.write_text(text, encoding="utf-8")

    def write_json(self, dict_to_write: Mapping[str, Any], filename: str) -> None:
        """Write what JSON can hold into the run's folder; numbers that it cannot, NaN and infinity, become null."""
        self.write_text(json.dumps(_without_nan(dict_to_write), allow_nan=False), filename)

    def cleanup(self) -> None:
        """Write ``log.json``."""
        self.write_log("log.json")

    def state_dict(self) -> dict[str, Any]:
        """Return the run's name and its scalars so far, each series float64 ``[n, 2]``."""
        series = {name: torch.tensor(points, dtype=torch.float64) for name, points in self.run_log.items()}
        return {"run_name": self.run_name, "series": series}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the log that :meth:`state_dict` was asked for, in its folder."""
        # Goes if it is empty, as one is that the time of day gave its name.
        with suppress(OSError):
            Path(self.log_dir).rmdir()
        self.run_name = state["run_name"]
        self.log_dir = str(Path(self.config.log_dir) / self.run_name)
        Path(self.log_dir).mkdir(parents=True, exist_ok=True)
        self.run_log.clear()
        for name, points in state["series"].items():
            self.run_log[name] = points.tolist()


class TensorBoardWriter(LogWriter):
    """Writes scalars to event files of TensorBoard as they come.

    Args:
        **kwargs: As of :class:`LogWriter`.

    Attributes:
        writer: The ``tensorboardX.SummaryWriter``.
    """

    def __init__(self, **kwargs: Any) -> None:
        # Only who logs to TensorBoard waits for its import.
        from tensorboardX import SummaryWriter  # noqa: PLC0415

        super().__init__(**kwargs)
        self._opened: Callable[[], Any] = lambda: SummaryWriter(self.log_dir)
        self.writer = self._opened()

    def add_scalar(self, name: str, value: float, step: float) -> None:
        """Write one value of a series; TensorBoard's steps are whole numbers."""
        super().add_scalar(name, value, step)
        self._write(name, value, step)

    def _write(self, name: str, value: float, step: float) -> None:
        self.writer.add_scalar(name, float(value), int(step))

    def write_config(self, config: BaseModel, config_filename: str = "config.json") -> None:
        """Write settings as JSON into the run's folder, and as a text into the event file."""
        super().write_config(config, config_filename)
        self.writer.add_text("config", config.model_dump_json())

    def cleanup(self) -> None:
        """Close the event file."""
        self.writer.close()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with the log that :meth:`state_dict` was asked for, in an event file that has all of it."""
        self.writer.close()
        self._clear()
        super().load_state_dict(state)
        self._clear()
        self.writer = self._opened()
        for name, points in self.run_log.items():
            for step, value in points:
                self._write(name, value, step)

    def _clear(self) -> None:
        for path in Path(self.log_dir).glob("events.out.tfevents.*"):
            path.unlink()


def _free_name(log_dir: Path) -> str:
    """Return the date and time, with a number where a run of the same second has that name."""
    name = datetime.now().strftime("%Y_%m_%d/%H_%M_%S")
    names = (name if number == 1 else f"{name}_{number}" for number in count(1))
    return next(name for name in names if not (log_dir / name).exists())


def _without_nan(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _without_nan(entry) for key, entry in cast("Mapping[Any, Any]", value).items()}
    if isinstance(value, list | tuple):
        return [_without_nan(entry) for entry in cast("list[Any]", value)]
    return value
