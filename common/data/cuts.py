"""How many of the available images a run uses, in words: every message says where a limit leaves some out."""

from collections.abc import Mapping
from typing import Any

DescribedPartition = Mapping[str, Any]


def out_of(used: int, available: int) -> str:
    """``1,500 of 4,000``, or ``all 4,000``; only the number, if it is not known how many there are."""
    return f"{used:,} of {available:,}" if used < available else f"{'all ' if available else ''}{used:,}"


def training_images(described: DescribedPartition) -> str:
    """Say how many training images a partition uses; empty if an earlier version has not stored that."""
    return out_of(described["used"], described["available"]) if described.get("available") else ""


def tested_images(n: int, described: DescribedPartition) -> str:
    """Say on how many of the test images something was measured."""
    tests = sum(described.get("test", ()))
    return out_of(n, tests) if n < tests else f"{n:,}"


def unused_images(described: DescribedPartition) -> int:
    """Return how many training images a limit has left unused."""
    return max(0, int(described.get("available", 0)) - int(described.get("used", 0)))


def told_images(described: DescribedPartition, config: Mapping[str, Any], federated: bool) -> str:
    """Say how many images of each kind a run takes, and which keys leave out the others.

    Args:
        described: as in ``partition.json``.
        config: of the run, flat.
        federated: whether a server has a pool, of which it shares a part.
    """
    pool, shared, held, tests = (sum(described.get(name, ())) for name in ("pool", "shared", "validation", "test"))
    elsewhere = config.get("sharing.kind") == "other-dataset"  # it takes no image of the pool
    after, final = (int(config[key]) for key in ("evaluate.examples", "evaluate.final-examples"))
    parts = [
        ("training", described.get("used", 0), described.get("available", 0), "data.max-examples"),
        ("shared", shared, pool if federated else 0, "sharing.kind" if elsewhere else "sharing.fraction"),
        ("validation", after or held, held, "evaluate.examples"),
        ("test", after or tests, tests, "evaluate.examples"),
        ("final test", final or tests, tests if config["evaluate.final-attacks"] else 0, "evaluate.final-examples"),
    ]
    return f"Images: {', '.join(_part(*part) for part in parts if part[2])}"


def _part(what: str, used: int, available: int, key: str) -> str:
    return f"{what} {out_of(min(used, available), available)}{f' ({key})' if used < available else ''}"
