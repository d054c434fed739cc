"""What FedShield costs, beside what it replaces. Each module is one command: ``python -m benchmarks.NAME``."""
