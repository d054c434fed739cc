"""The commands: ``fedshield``, which is also ``python -m fedshield``, and those that start Flower's.

They have the same address in a checkout and in the installed package.
"""

import os
import sys

try:
    from fedshield.clash import refuse_clashes
except KeyboardInterrupt:  # before `entry` can say so
    os.write(2, b"fedshield: interrupted\n")
    os._exit(130)


def main() -> None:
    """Entry point of ``fedshield``."""
    _begin()
    from simulations.cli.entry import main as command

    command()


def superlink() -> None:
    """Entry point of ``fedshield-superlink``."""
    _begin()
    from server.network.superlink import main as command

    command()


def supernode() -> None:
    """Entry point of ``fedshield-supernode``."""
    _begin()
    from client.supernode.fork_server import supernode as command

    command()


def superexec() -> None:
    """Entry point of ``fedshield-superexec``."""
    _begin()
    from client.supernode.superexec import main as command

    command()


def _begin() -> None:
    try:
        refuse_clashes()
    except ImportError as error:
        sys.exit(f"fedshield: {error}")


if __name__ == "__main__":
    sys.argv[0] = "fedshield"  # so that environment.json tells a command to repeat
    main()
