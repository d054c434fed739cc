"""What FedShield costs, compared with what it replaces. Each module is one command: ``python -m benchmarks.NAME``."""
