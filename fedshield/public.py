"""What a script or a notebook calls; ``fedshield`` itself imports this only when it is used."""

from common.errors import FedShieldError as Error
from common.exported import load_exported
from fedshield.measuring import Measured, evaluate
from fedshield.results import Run, load, runs
from fedshield.running import centralized, run
from server.aggregation.selection import Candidates
from server.aggregation.whole_round import Received

__all__ = [
    "Candidates",
    "Error",
    "Measured",
    "Received",
    "Run",
    "centralized",
    "evaluate",
    "load",
    "load_exported",
    "run",
    "runs",
]
