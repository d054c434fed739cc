"""What a terminal shows: the log, and a run while it goes on."""
