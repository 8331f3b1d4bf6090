"""What every endpoint has in common: transactions, strict JSON, idempotency, entity tags, pages and problems."""
