"""A run of a study, in a process of its own: ``python -m simulations.cli.child``, which a sweep starts."""

import os
import signal
import sys
import threading
import time

from simulations.cli.entry import main
from simulations.studies.processes import PATIENCE


def child() -> None:
    """Entry point of a run's process: the command line, watched by a thread that ends it with its sweep."""
    parent = int(sys.argv.pop(1))
    sys.argv[0] = "fedshield"  # so that environment.json tells a command to repeat
    # A sweep in the background of a script ignores Ctrl-C, and its children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_watch, args=[parent], daemon=True).start()
    main()


def _watch(parent: int) -> None:
    """Interrupt this process when the sweep is gone: a run that nobody sees would hold its cores and its lock."""
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(PATIENCE)
    os._exit(130)


if __name__ == "__main__":
    child()
