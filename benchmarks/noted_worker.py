"""The worker of the processes engine, which also writes down when its clients begin; see ``engine_side``."""

import os

from benchmarks.engine_side import LOG, note_first_steps
from simulations.engine import process_worker


def main(descriptor: int) -> None:
    """Do what ``process_worker`` does."""
    note_first_steps(os.environ[LOG])
    process_worker.main(descriptor)
