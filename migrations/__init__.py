"""Alembic's history of the schema in ``app/db/tables.py``."""
