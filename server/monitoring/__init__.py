"""Who is told of a run while it goes on: Prometheus and experiment trackers."""
