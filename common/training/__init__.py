"""Training methods, and the loop that all training shares."""
