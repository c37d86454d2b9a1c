"""Stores of record. `base.Origin` is the promise; each module beside it keeps it for one kind of store."""
