"""The run configuration: flat keys, the typed model, the reference of all keys."""
