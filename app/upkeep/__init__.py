"""What keeps database and artifacts in order: what is in use, what nobody needs any more, backups."""
