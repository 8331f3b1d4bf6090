"""Drafts the next migration: what ``app/db/tables.py`` says, less what the migrations so far make.

python -m migrations "runs get a priority"
"""

import sys
import tempfile
from pathlib import Path

from alembic import command
from alembic.script import ScriptDirectory

from app.db.migrations import alembic_config, upgrade
from app.db.session import Database


def draft(message: str) -> Path:
    """Write the next revision beside the others, numbered on, and return its file."""
    config = alembic_config()
    head = ScriptDirectory.from_config(config).get_current_head()
    number = f"{int(head or 0) + 1:04}"
    with tempfile.TemporaryDirectory() as folder:
        db = Database(f"sqlite:///{folder}/draft.db")
        upgrade(db.engine)
        with db.engine.connect() as connection:
            config.attributes["connection"] = connection
            command.revision(config, message, autogenerate=True, rev_id=number)
        db.dispose()
    return next(Path(__file__).parent.glob(f"versions/{number}_*.py"))


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1].strip():
        sys.exit("say what changes: make migration NAME='runs get a priority'")
    print(draft(sys.argv[1].strip()))
