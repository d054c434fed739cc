"""What an adversary may do, and the names of attacks: ``pgd-20x5``. Nothing here imports torch."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self

from common.errors import FedShieldError
from common.user_code import is_user_code
from common.words import near

Norm = Literal["linf", "l2"]
LINF: Norm = "linf"
L2: Norm = "l2"
_BALLS: dict[Norm, str] = {LINF: "Linf", L2: "L2"}  # as torchattacks and papers write them

_REACH = 2.5
_DOUBTED = 0.5  # 1/255; nobody trains within so little, and 8/255 is 0.031
_SMALL_L2 = 32  # 1/255; published ones for images of 32 pixels are 64 to 255
_LABEL = re.compile(r"(.+?)(?:-([1-9][0-9]*))?(?:x([1-9][0-9]*))?")  # name, steps, restarts
_KNOWN = (
    "fgsm, bim-STEPS, pgd-STEPS, cw-STEPS (or pgd-20x5: 5 restarts), autoattack, apgd-ce, apgd-t, fab-t, square, "
    "cw-l2, deepfool, FILE.py:NAME-STEPS"
)


@dataclass(frozen=True)
class Threat:
    """What the adversary may do: move every pixel by epsilon at most (Linf), or the whole image by that length (L2).

    Attributes:
        epsilon: radius of the ball, in the [0, 1] pixel range (8/255 is the usual one in Linf, 0.5 in L2).
        step: step size of iterative attacks, same unit; in L2 the length of a step.
        steps: number of gradient steps of iterative attacks; queries of ``square``; 0 = the attack's standard.
        norm: of the ball.
    """

    epsilon: float
    step: float
    steps: int
    norm: Norm = LINF

    @property
    def ball(self) -> str:
        """``Linf`` or ``L2``."""
        return _BALLS[self.norm]

    @classmethod
    def from_255(cls, epsilon: float, step: float, steps: int = 0, norm: Norm = LINF) -> Self:
        """Make a threat of numbers as papers and the configuration have them.

        >>> Threat.from_255(epsilon=8, step=2, steps=10) == Threat(8 / 255, 2 / 255, 10)
        True

        Args:
            epsilon: in 1/255 of the pixel range, >= 0; at most 255 in Linf.
            step: same unit, above 0.
            steps: as in ``Threat``.
            norm: as in ``Threat``.
        """
        return cls(epsilon / 255, step / 255, steps, norm)

    @classmethod
    def reaching(cls, epsilon: float, steps: int, norm: Norm = LINF) -> Self:
        """Return a threat whose steps together are 2.5 epsilon long, as in Madry et al. 2018 (arXiv 1706.06083).

        So each radius is attacked with the same effort.

        Args:
            epsilon: in the [0, 1] pixel range.
            steps: 1 or more.
            norm: as in ``Threat``.
        """
        return cls(epsilon, _REACH * epsilon / steps, steps, norm)


def radius(epsilon_255: float, norm: str) -> str:
    """Write the radius of a ball, with its norm.

    >>> radius(8, "linf"), radius(127.5, "l2")
    ('8/255 (Linf)', '0.5 (L2; 127.5/255)')

    Args:
        epsilon_255: in 1/255 of the pixel range.
        norm: as in ``Threat``.
    """
    if norm == L2:
        return f"{epsilon_255 / 255:.4g} (L2; {epsilon_255:g}/255)"
    return f"{epsilon_255:g}/255 (Linf)"


@dataclass(frozen=True)
class Family:
    """What may follow the name of an attack, and what it needs.

    Attributes:
        steps: that the bare name means; 0: the attack's own standard, and the name stays bare; None: the name has no
            steps.
        restarts: whether the number of random starts may follow.
        classes: the fewest that the model must have.
    """

    steps: int | None = None
    restarts: bool = False
    classes: int = 1


class Bounded(Family):
    """Attacks inside the ball of a threat: they give robust accuracy (foolbox: ``FixedEpsilonAttack``)."""


class Minimal(Family):
    """Attacks that look for the smallest change, without a budget: they give distortions (``MinimizationAttack``)."""


# The attacks of evaluations, by name; what they are, with the papers, is in ``library.ATTACKS``.
FAMILIES: dict[str, Family] = {
    "fgsm": Bounded(),
    "bim": Bounded(steps=10, restarts=True),
    "pgd": Bounded(steps=10, restarts=True),
    "cw": Bounded(steps=30, restarts=True),
    "apgd-ce": Bounded(steps=0),
    "apgd-t": Bounded(steps=0, classes=4),  # its targeted DLR loss looks at the four largest logits
    "fab-t": Bounded(steps=0),
    "square": Bounded(steps=0),
    "autoattack": Bounded(classes=4),  # apgd-t is a part of it
    "deepfool": Minimal(),
    "cw-l2": Minimal(),
}
ITERATED = frozenset({"bim", "pgd", "cw"})  # those whose steps have a size that is given
_OWN = Bounded(steps=0, restarts=True)


@dataclass(frozen=True)
class AttackSpec:
    """An attack of an evaluation as its label tells it; ``str`` gives the label.

    Attributes:
        name: a key of ``FAMILIES``, or ``FILE.py:NAME``.
        steps: as in ``Threat``.
        restarts: random starts, 1 or more; an example must survive all of them.
    """

    name: str
    steps: int = 0
    restarts: int = 1

    @classmethod
    def parse(cls, label: str) -> Self:
        """Read a label; the name alone means the usual number of steps.

        >>> AttackSpec.parse("pgd-20x5")
        AttackSpec(name='pgd', steps=20, restarts=5)
        >>> str(AttackSpec.parse("pgd"))
        'pgd-10'

        Raises:
            ValueError: there is no such attack, or it does not take steps or restarts; one line with those that are
                known.
        """
        if is_user_code(label):  # whose name may end in x5
            return cls(label)
        match = _LABEL.fullmatch(label)
        name, steps, restarts = match.groups() if match else ("", None, None)
        family = _OWN if is_user_code(name) else FAMILIES.get(name)
        if family is None or (steps and family.steps is None) or (restarts and not family.restarts):
            hint = near(re.sub(r"-[0-9].*", "", label), list(FAMILIES))
            raise ValueError(f"unknown attack '{label}'; known: {_KNOWN}{hint}")
        return cls(name, int(steps or family.steps or 0), int(restarts or 1))

    def __str__(self) -> str:
        steps = f"-{self.steps}" if self.steps else ""
        return f"{self.name}{steps}" + (f"x{self.restarts}" if self.restarts > 1 else "")

    @property
    def family(self) -> Family:
        """What kind of attack it is; a user's own has to stay in the ball."""
        return FAMILIES.get(self.name, _OWN)

    def within(self, threat: Threat) -> Threat:
        """Return the threat with the number of steps of this attack."""
        return replace(threat, steps=self.steps)


def given_steps(labels: Iterable[str]) -> list[int]:
    """Return the numbers of steps of those attacks whose steps have a length that is given."""
    return [spec.steps for spec in map(AttackSpec.parse, labels) if spec.name in ITERATED]


def check_step(key: str, step_255: float, steps: Sequence[int], epsilon_255: float, norm: Norm = LINF) -> str:
    """Check that an attack's steps can reach the radius; say so of steps whose unit was most likely not meant.

    >>> check_step("step_255", 0.0078, [20], 8.0)
    'step_255 = 0.0078: in 1/255 of the pixel range, so 20 steps move a pixel by 0.156/255, of 8/255; did you mean 2?'
    >>> check_step("step_255", 2.0, [20], 8.0)
    ''

    Args:
        key: or the option, that gives the length.
        step_255: length of a step, in 1/255 of the pixel range.
        steps: of the attacks that take such steps; may be none.
        epsilon_255: radius, in the same unit.
        norm: of the radius.

    Returns:
        The doubt, in Linf; there a random start gets further than the steps do.

    Raises:
        FedShieldError: in L2, for which the default length is not made, they do not reach it.
    """
    fewest = min(steps, default=0)
    if fewest * step_255 >= epsilon_255 * (1 - 1e-9) or not fewest:  # both may have been rounded
        return ""
    if norm == L2:
        raise FedShieldError(
            f"{key} = {step_255:g}: in L2, {fewest} steps of this length do not reach epsilon = {epsilon_255:g}; set "
            f"{key}={_REACH * epsilon_255 / fewest:.4g} ({_REACH:g} epsilon / steps) or more steps"
        )
    if step_255 >= _DOUBTED:
        return ""
    return (
        f"{key} = {step_255:g}: in 1/255 of the pixel range, so {fewest} steps move a pixel by "
        f"{fewest * step_255:.3g}/255, of {epsilon_255:g}/255; did you mean {max(1, round(255 * step_255))}?"
    )


def doubted_radius(key: str, epsilon_255: float, norm: Norm = LINF) -> str:
    """Say that a radius is so small that its unit or its norm was most likely not meant; nothing of any other.

    >>> doubted_radius("--epsilon", 0.031)
    '--epsilon = 0.031: in 1/255 of the pixel range, so 0.031/255 (Linf); did you mean 8, for 8/255 (Linf)?'
    >>> doubted_radius("--epsilon", 8.0)
    ''

    Args:
        key: or the option, that gives it.
        epsilon_255: in 1/255 of the pixel range.
        norm: of the radius.
    """
    if 0 < epsilon_255 < _DOUBTED:
        meant = 255 * epsilon_255 if norm == L2 else max(1, round(255 * epsilon_255))
        return (
            f"{key} = {epsilon_255:g}: in 1/255 of the pixel range, so {radius(epsilon_255, norm)}; did you mean "
            f"{meant:g}, for {radius(meant, norm)}?"
        )
    if norm == L2 and 0 < epsilon_255 < _SMALL_L2:
        return (
            f"{key} = {epsilon_255:g}: in L2 the whole image moves by {radius(epsilon_255, norm)}, hardly at all; the "
            f"usual radius is {key} = 127.5"
        )
    return ""
