"""The database: sessions, the schema, and its migrations."""
