"""What a script or a notebook calls; ``fedshield`` itself imports this only when it is used."""

from common.errors import FedShieldError as Error
from common.exported import load_exported
from fedshield.measuring import Measured, evaluate
from fedshield.results import Run, load, runs
from fedshield.running import centralized, run

__all__ = ["Error", "Measured", "Run", "centralized", "evaluate", "load", "load_exported", "run", "runs"]
