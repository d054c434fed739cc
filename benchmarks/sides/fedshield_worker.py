"""The worker of FedShield's side with several processes, which also finds the data."""

import benchmarks.sides.fedshield_side  # noqa: F401  # which knows the data
from simulations.engine import process_worker


def main(descriptor: int) -> None:
    """Do what ``process_worker`` does."""
    process_worker.main(descriptor)
