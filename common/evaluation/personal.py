"""Accuracy of clients' own models, each on the test images of its client's classes: put together, and in words."""

from collections.abc import Mapping, Sequence
from statistics import fmean, pstdev
from typing import Any

Record = Mapping[str, Any]

_MEASURED = ("natural", "robust")


def put_together(clients: Sequence[Record]) -> dict[str, Any]:
    """Return what a results file says of clients' own models, and of the global one on the same images.

    >>> same = {"n": 10, "robust": None, "global": {"natural": 0.4, "robust": None}}
    >>> put_together([{"client": 0, "natural": 0.9, **same}, {"client": 3, "natural": 0.5, **same}])["natural"]
    {'mean': 0.7, 'worst': 0.5, 'worst-client': 3, 'spread': 0.2}

    Args:
        clients: of each client that has test images of its classes: ``client``, its number; ``n``, these images;
            ``natural`` and ``robust`` accuracy in [0, 1] of its own model (None without an attack); ``global``, the
            same two of the global model.
    """
    numbers = [each["client"] for each in clients]
    found: dict[str, Any] = {"clients": [dict(each) for each in clients]}
    for name, figures in (("own", clients), ("global", [each["global"] for each in clients])):
        over = {measured: _over([each[measured] for each in figures], numbers) for measured in _MEASURED}
        found |= over if name == "own" else {name: over}
    return found


def _over(values: Sequence[float | None], numbers: Sequence[int]) -> dict[str, Any] | None:
    """Return mean, worst client and standard deviation over the clients; None where nothing was measured."""
    known = [(value, number) for value, number in zip(values, numbers, strict=True) if value is not None]
    if not known:
        return None
    own = [value for value, _ in known]
    worst, client = min(known)
    return {"mean": fmean(own), "worst": worst, "worst-client": client, "spread": pstdev(own)}


def tell_personal(record: Record) -> list[str]:
    """Say in two lines how good clients' own models are, and the global one beside them; nothing if it is not known.

    Args:
        record: as ``put_together`` returns it; may be empty.
    """
    if not (clients := record.get("clients")):
        return []
    found, sizes = put_together(clients), [each["n"] for each in clients]
    n = f"n = {min(sizes):,}" if min(sizes) == max(sizes) else f"n = {min(sizes):,} to {max(sizes):,}"
    return [
        f"own models of {len(clients)} clients, each on the test images of its own classes ({n}): {_say(found)}",
        f"the global model on the same images: {_say(found['global'])}",
    ]


def _say(over: Record) -> str:
    """``natural 85.2 % (worst client 3: 60.0 %, spread 9.1), robust ...``; the spread is a standard deviation."""
    return ", ".join(
        f"{name} {100 * own['mean']:.1f} % (worst client {own['worst-client']}: {100 * own['worst']:.1f} %, spread "
        f"{100 * own['spread']:.1f})"
        for name in _MEASURED
        if (own := over[name])
    )
