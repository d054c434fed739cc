"""The rules and lies of byzfl on given updates, in an environment of its own; see ``benchmarks.against_byzfl``."""

import sys
from typing import Any

import byzfl  # type: ignore[import-not-found]
import numpy as np


def main() -> None:
    """Read the updates [rounds,n,D] and f, and write what byzfl makes of them."""
    source, target = sys.argv[1:]
    given = np.load(source)
    malicious, radius = int(given["malicious"]), float(given["radius"])
    rules = {
        "nnm": lambda: byzfl.NNM(malicious),
        "arc": lambda: byzfl.ARC(malicious),
        "geometric-median": lambda: byzfl.GeometricMedian(nu=1e-6, T=1000),
        "centered-clipping": lambda: byzfl.CenteredClipping(L=3, tau=radius),
        "krum": lambda: byzfl.Krum(malicious),
        "multi-krum": lambda: byzfl.MultiKrum(malicious),
        "trimmed-mean": lambda: byzfl.TrMean(malicious),
        "median": byzfl.Median,
        "sign-flip": byzfl.SignFlipping,
        "ipm": lambda: byzfl.InnerProductManipulation(0.5),
    }
    found: dict[str, Any] = {
        name: np.array([make()(updates.copy()) for updates in given["updates"]]) for name, make in rules.items()
    }
    np.savez(target, **found)


if __name__ == "__main__":
    main()
