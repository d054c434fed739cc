"""The worker of the processes engine, which also writes down when its clients begin; see ``engine_side``."""

import os

from benchmarks.engine_side import LOG, note_first_steps
from simulations.engine.process_worker import main

if __name__ == "__main__":
    note_first_steps(os.environ[LOG])
    main()
