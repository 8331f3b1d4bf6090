"""The Taskloom service: HTTP API, database, artifact store, worker and command line around ``mtl_core``."""
