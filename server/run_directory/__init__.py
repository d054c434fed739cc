"""The files of a run: written, read, and checked."""
