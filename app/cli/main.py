"""The ``taskloom`` command: serve, worker, demo, backup, restore and db."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from collections.abc import Generator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from pydantic import ValidationError

if TYPE_CHECKING:
    from app.settings import Settings

cli = typer.Typer(
    name="taskloom",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Taskloom trains one shared PyTorch model for many related tasks and serves every task of it.

    Start with `taskloom demo`, or `taskloom serve` and http://127.0.0.1:8000/docs.

    Every setting can be given as an environment variable `TASKLOOM_<NAME>`, among them `TASKLOOM_DATA_DIR` (where
    artifacts and the embedded database live), `TASKLOOM_DATABASE_URL` (PostgreSQL in its place) and
    `TASKLOOM_WORKER_SLOTS` (trainings side by side). Options on the command line go first.
    """,
)
database = typer.Typer(no_args_is_help=True, help="Look after the database.")
cli.add_typer(database, name="db")

DataDir = Annotated[
    Path | None,
    typer.Option(
        help="Folder for artifacts and the embedded database. [default: ./data]", show_default=False
    ),
]


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"taskloom {version('taskloom')}")
        raise typer.Exit


@cli.callback()
def _root(  # pyright: ignore[reportUnusedFunction]
    _version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Hold the options that stand before a command."""


@cli.command()
def serve(
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]", show_default=False)
    ] = None,
    port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help="Port to listen on; 0 takes a free one. [default: 8000]",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    worker: Annotated[bool, typer.Option(help="Start a worker beside the server.")] = True,
    processes: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that answer requests. [default: 1]", show_default=False),
    ] = None,
    listener_fd: Annotated[int | None, typer.Option(hidden=True)] = None,
    stop_on_stdin_close: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Start the server, and a worker beside it.

    The embedded database is made and migrated at the start; one named by `TASKLOOM_DATABASE_URL` must be at the
    newest revision (`taskloom db upgrade`).

    On an address that other machines reach, the server starts only with `TASKLOOM_ALLOW_OPEN=true`: it has no API keys
    yet, so whoever reaches it may do anything.
    """
    # Imported here, as whatever else takes a while to import: so --help comes at once.
    from app.cli.server import run_server, run_servers  # noqa: PLC0415
    from app.logs import configure_logs  # noqa: PLC0415

    settings = _settings(host=host, port=port, data_dir=data_dir, server_processes=processes)
    if not settings.allow_open and not _is_loopback(settings.host):
        _refuse(
            f"{settings.host} can be reached from other machines, and there are no API keys: listen on 127.0.0.1,"
            " or set TASKLOOM_ALLOW_OPEN=true if whoever reaches this server may do anything"
        )
    configure_logs(settings)
    _prepare_database(settings)
    if listener_fd is None:
        run_servers(settings, with_worker=worker)
    else:
        run_server(
            settings, with_worker=worker, listener_fd=listener_fd, stop_on_stdin_close=stop_on_stdin_close
        )


@cli.command()
def worker(
    data_dir: DataDir = None,
    slots: Annotated[
        int | None, typer.Option(min=1, help="Trainings side by side. [default: 1]", show_default=False)
    ] = None,
    stop_on_stdin_close: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Start a worker, which trains the runs that the server accepts.

    Any number of workers may share one database and one artifact folder. SIGTERM stops a worker; it gives its runs back
    to the queue.
    """
    from app.logs import configure_logs  # noqa: PLC0415
    from app.worker.supervisor import run_worker  # noqa: PLC0415

    settings = _settings(data_dir=data_dir, worker_slots=slots)
    configure_logs(settings)
    _prepare_database(settings)
    run_worker(settings, stop_on_stdin_close=stop_on_stdin_close)


@cli.command()
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the server up until Ctrl-C.")] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the server; 0 takes a free one.")] = 0,
    data_dir: Annotated[
        Path | None,
        typer.Option(help="Folder to keep the data in. [default: a temporary one]", show_default=False),
    ] = None,
) -> None:
    """Play the tutorial and a real data set over HTTP, through a real server and worker.

    Two tasks share a trunk, a third is put on the trained model; then handwritten digits as three tasks of one trunk.
    """
    from app.cli.demo import run_demo  # noqa: PLC0415

    sys.exit(run_demo(keep=keep, port=port, data_dir=data_dir))


@cli.command()
def backup(
    folder: Annotated[Path, typer.Argument(help="Where to; a backup that is there is brought up to date.")],
    data_dir: DataDir = None,
) -> None:
    """Copy database and artifacts, as they are at one moment, while the service runs."""
    from app.upkeep.backup import back_up  # noqa: PLC0415

    with _refusing_what_storage_refuses():
        made = back_up(_settings(data_dir=data_dir), folder)
    typer.echo(
        f"{folder} has {made.rows:,} rows and {made.artifacts:,} artifacts ({made.bytes / 1e6:,.1f} MB)"
        f" as of {made.created_at}"
    )


@cli.command()
def restore(
    folder: Annotated[Path, typer.Argument(help="A backup.")],
    data_dir: DataDir = None,
) -> None:
    """Fill an empty database and data folder from a backup, whichever database that was made of."""
    from app.upkeep.backup import put_back  # noqa: PLC0415

    with _refusing_what_storage_refuses():
        made = put_back(_settings(data_dir=data_dir), folder)
    typer.echo(f"restored {made.rows:,} rows and {made.artifacts:,} artifacts as of {made.created_at}")


@database.command()
def upgrade(data_dir: DataDir = None) -> None:
    """Bring the database to the newest revision, making it if need be."""
    from app.db import migrations  # noqa: PLC0415
    from app.db.session import Database  # noqa: PLC0415

    with _refusing_what_storage_refuses():
        db = Database(_settings(data_dir=data_dir).resolved_database_url)
        migrations.upgrade(db.engine)
        db.dispose()
    typer.echo(f"the database {db.engine.url.render_as_string(hide_password=True)} is at the newest revision")


def _settings(**given: Any) -> Settings:
    """Return the settings, those given on the command line first, and pass them on to child processes."""
    from app.settings import Settings  # noqa: PLC0415

    for name, value in given.items():
        if value is not None:
            os.environ[f"TASKLOOM_{name.upper()}"] = str(value)
    try:
        return Settings()
    except ValidationError as error:
        lines = [f"TASKLOOM_{str(e['loc'][0]).upper()}: {e['msg']}" for e in error.errors()]
        _refuse("; ".join(lines))


def _prepare_database(settings: Settings) -> None:
    from app.db import migrations  # noqa: PLC0415

    with _refusing_what_storage_refuses():
        migrations.prepare(settings)


@contextmanager
def _refusing_what_storage_refuses() -> Generator[None]:
    """Say in one line, without a trace, that the database or the data folder cannot be used."""
    from sqlalchemy.exc import SQLAlchemyError  # noqa: PLC0415

    from app.db.migrations import UnsuitableDatabaseError  # noqa: PLC0415

    try:
        yield
    except UnsuitableDatabaseError as error:
        _refuse(str(error))
    except (SQLAlchemyError, OSError) as error:
        _refuse(f"the database cannot be used: {str(error).splitlines()[0]}")


def _is_loopback(host: str) -> bool:
    try:
        addresses = {info[4][0] for info in socket.getaddrinfo(host or "0.0.0.0", None)}
    except OSError as error:
        _refuse(f"cannot listen on '{host}': {error}")
    return all(ipaddress.ip_address(address).is_loopback for address in addresses)


def _refuse(message: str) -> NoReturn:
    typer.echo(f"taskloom: {message}", err=True)
    raise typer.Exit(2)
