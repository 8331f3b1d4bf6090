"""``python -m app.cli`` is ``taskloom``."""

from app.cli.main import cli

cli()
