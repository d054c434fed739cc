"""A client that harms: it pulls against all others, or sends what has to be refused."""

from collections.abc import Mapping
from statistics import median
from typing import ClassVar

from server.diagnosis.diagnosis import MILD, SEVERE, About, Found, Line, Lines, signal

_WINDOW = 3  # of a client's last rounds
_OFTEN = 2  # of these, with a sign
_AGAINST, _APART = -0.2, 4  # cosine with the others; and how many robust deviations below their median
_LEAST = 0.05  # of a robust deviation
_LONG = 3  # times the median norm
_LOSS = 3  # times the median loss


class HarmfulClient:
    """Names the clients that pull against the others, are far longer, or were refused for what they sent.

    FLTrust's score (Cao et al. 2021, arXiv 2012.13995), and norms and directions compared within a round, as robust
    aggregation does. One round is no proof: two of a client's last three are. Mild: only its loss stands out.
    """

    name: ClassVar[str] = "harmful-client"
    images: ClassVar[bool] = False
    replies: ClassVar[bool] = True

    def judge(self, lines: Lines, about: About) -> Found | None:
        """Judge each client of the last rounds; see ``Trouble.judge``."""
        signs: dict[int, list[str]] = {}
        losses: dict[int, list[bool]] = {}
        for line in lines:
            asked = {*line.get("clients", {}), *line.get("refused", {})}
            seen, high = _signs(line), _high_losses(line)
            for client in sorted(map(int, asked)):
                signs.setdefault(client, []).append(seen.get(client, ""))
                losses.setdefault(client, []).append(client in high)
        named = {client: told for client, all_ in signs.items() if (told := _often(all_[-_WINDOW:]))}
        if named and 2 * len(named) < len(signs):
            told = "; ".join(f"client {client}: {why}" for client, why in sorted(named.items()))
            return Found(SEVERE, told, tuple(sorted(named)))
        costly = sorted(client for client, high in losses.items() if len(high) >= _WINDOW and all(high[-_WINDOW:]))
        if not costly or 2 * len(costly) >= len(signs):
            return None
        who = ", ".join(map(str, costly))
        return Found(MILD, f"client {who}: more than {_LOSS} times the median loss in {_WINDOW} rounds", tuple(costly))


def _often(signs: list[str]) -> str:
    """Return the last of a client's signs, if it has shown enough of them."""
    shown = [sign for sign in signs if sign]
    return f"{shown[-1]} ({len(shown)} of its last {len(signs)} rounds)" if len(shown) >= _OFTEN else ""


def _signs(line: Line) -> dict[int, str]:
    """Return what speaks against each client in a round."""
    found = {int(client): f"refused: {line['refused'].get(str(client))}" for client in line.get("distrusted", ())}
    cosines: Mapping[str, float] = signal(line, "cosines") or {}
    pool: Mapping[str, float] = signal(line, "pool-cosines") or {}
    if len(cosines) > 3:
        middle = median(cosines.values())
        spread = max(_LEAST, 1.4826 * median(abs(value - middle) for value in cosines.values()))
        for client, value in cosines.items():
            if value < _AGAINST and value < middle - _APART * spread:
                score = f", and {pool[client]:.2f} with the held-out images' gradient" if client in pool else ""
                found.setdefault(
                    int(client), f"cosine {value:.2f} with the others' updates, whose median is {middle:.2f}{score}"
                )
    norms = {client: told["update-norm"] for client, told in line.get("clients", {}).items() if "update-norm" in told}
    if len(norms) > 3 and (usual := median(norms.values())) > 0:
        for client, norm in norms.items():
            if norm > _LONG * usual:
                found.setdefault(int(client), f"its update is {norm / usual:.1f} times as long as the median")
    return found


def _high_losses(line: Line) -> set[int]:
    losses = {client: told["loss"] for client, told in line.get("clients", {}).items()}
    if len(losses) <= 3 or (usual := median(losses.values())) <= 0:
        return set()
    return {int(client) for client, loss in losses.items() if loss > _LOSS * usual}
