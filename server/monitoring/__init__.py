"""Who is told about a run while it runs: Prometheus and experiment trackers."""
