"""A client that harms: it pulls against all others, or sends what has to be refused."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean, median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, signal

_BACK = 50  # rounds: what was longer ago says nothing of a client
_WINDOW = 3  # of a client's last rounds
_OFTEN = 2  # of these, with a sign; or that make a mean
_AGAINST, _APART = -0.05, 3  # mean cosine with the others; and how many robust deviations below the median client's
_LEAST = 0.04  # of a robust deviation
_LONG = 3  # times the median norm
_LOSS = 3  # times the median loss


@dataclass
class _Record:
    """What the server has seen of a client, round by round."""

    signs: list[str] = field(default_factory=list)
    losses: list[bool] = field(default_factory=list)
    cosines: list[float] = field(default_factory=list)
    pool: list[float] = field(default_factory=list)

    def mean(self, which: str) -> float | None:
        """Return the mean of the last values; None where there are too few."""
        values: list[float] = getattr(self, which)[-_WINDOW:]
        return fmean(values) if len(values) >= _OFTEN else None


class HarmfulClient:
    """Names the clients that pull against the others, are far longer, or were refused for what they sent.

    A direction is judged by its mean over a client's last three rounds: against the other clients, who agree among
    themselves, far from the median client, and, where images are held out, against their gradient too (FLTrust trusts
    such an update not at all: Cao et al. 2021, arXiv 2012.13995, equation 2). Of the other signs two in three rounds
    are enough. Mild: only its loss stands out.
    """

    name: ClassVar[str] = "harmful-client"
    images: ClassVar[bool] = False
    replies: ClassVar[bool] = True

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Judge each client of the last rounds; see ``Trouble.judge``."""
        known: dict[int, _Record] = {}
        for line in lines[-_BACK:]:
            _note(line, known)
        named = _pulling(known)
        for client, record in known.items():
            shown = [sign for sign in record.signs[-_WINDOW:] if sign]
            if len(shown) >= _OFTEN:
                named[client] = f"{shown[-1]} ({len(shown)} of its last {_WINDOW} rounds)"
        if named and 2 * len(named) < len(known):
            told = "; ".join(f"client {client}: {named[client]}" for client in sorted(named))
            return Found(SEVERE, told, tuple(sorted(named)))
        costly = sorted(
            client
            for client, record in known.items()
            if len(record.losses) >= _WINDOW and all(record.losses[-_WINDOW:])
        )
        if not costly or 2 * len(costly) >= len(known):
            return None
        who = ", ".join(map(str, costly))
        return Found(MILD, f"client {who}: more than {_LOSS} times the median loss in {_WINDOW} rounds", tuple(costly))


def _pulling(known: Mapping[int, _Record]) -> dict[int, str]:
    """Return the clients that pull against the others, with the numbers."""
    means = {client: mean for client, record in known.items() if (mean := record.mean("cosines")) is not None}
    if len(means) <= 3 or (middle := median(means.values())) <= 0:  # all against all: nobody stands out
        return {}
    spread = max(_LEAST, 1.4826 * median(abs(mean - middle) for mean in means.values()))
    found = {}
    for client, mean in means.items():
        pool = known[client].mean("pool")
        if mean < _AGAINST and mean < middle - _APART * spread and (pool is None or pool < 0):
            beside = "" if pool is None else f", and {pool:.2f} with the gradient on held-out images"
            found[client] = (
                f"cosine {mean:.2f} with the others' updates, the median client's is {middle:.2f}{beside} (means over "
                f"its last rounds)"
            )
    return found


def _note(line: Line, known: dict[int, _Record]) -> None:
    """Add what a round tells of each client that was asked."""
    clients, distrusted = line.get("clients", {}), {str(client) for client in line.get("distrusted", ())}
    norms = {client: told["update-norm"] for client, told in clients.items() if "update-norm" in told}
    losses = {client: told["loss"] for client, told in clients.items()}
    usual, common = (median(each.values()) if len(each) > 3 else 0.0 for each in (norms, losses))
    asked = sorted({*clients, *line.get("refused", {})}, key=int)
    if 2 * len(distrusted) >= len(asked):  # training has gone wrong, not a client
        distrusted = set()
    for client in asked:
        record = known.setdefault(int(client), _Record())
        sign = f"refused: {line['refused'].get(client)}" if client in distrusted else ""
        if usual > 0 and norms.get(client, 0.0) > _LONG * usual:
            sign = f"its update is {norms[client] / usual:.1f} times as long as the median"
        record.signs.append(sign)
        record.losses.append(common > 0 and losses.get(client, 0.0) > _LOSS * common)
        for name, values in (("cosines", record.cosines), ("pool-cosines", record.pool)):
            if client in (found := signal(line, name) or {}):
                values.append(found[client])
