"""What a terminal shows: the log, and the progress of a run."""
