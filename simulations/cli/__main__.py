"""``python -m simulations.cli`` is ``fedshield``."""

from simulations.cli.entry import main

main()
