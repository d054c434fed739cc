"""``python -m simulations.cli`` is ``fedshield``."""

from simulations.cli.main import main

main()
