"""The types of the configuration's values: how each is written, and which are allowed."""

import re
from collections.abc import Sequence
from functools import partial
from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, WithJsonSchema

from common.attacks.threat import AttackSpec
from common.user_code import is_user_code
from common.words import near, visible

AUTO = "auto"
_TRACKERS = ["tensorboard", "mlflow", "wandb"]


def parse_labels(value: object) -> tuple[str, ...]:
    """``"fgsm,pgd"`` -> ``("fgsm", "pgd-10")``; a ValueError names an attack that is not known."""
    if not isinstance(value, str):
        raise ValueError('write the attacks as one string, separated by commas: "fgsm,pgd-10"')
    return tuple(dict.fromkeys(str(AttackSpec.parse(part.strip())) for part in value.split(",") if part.strip()))


def _final_labels(value: object) -> tuple[str, ...]:
    return (AUTO,) if value == AUTO else parse_labels(value)


def _split_milestones(value: object) -> tuple[int, ...]:
    if not isinstance(value, str) or not re.fullmatch(r"\s*(\d+\s*(,\s*\d+\s*)*)?", value):
        raise ValueError('write the rounds as one string, separated by commas: "50,75"')
    rounds = tuple(int(part) for part in value.split(",") if part.strip())
    if list(rounds) != sorted(set(rounds)):
        raise ValueError("the rounds must be in increasing order")
    return rounds


def _split_sizes(value: object) -> tuple[float, ...]:
    """``"1,1,2.5"`` -> ``(1.0, 1.0, 2.5)``."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else ["?"]
    if parts == [""]:
        return ()
    if not all(re.fullmatch(r"\d+(\.\d*)?", part) and 0 < float(part) < 1e15 for part in parts):
        raise ValueError('write one number above 0 for each client, as one string, separated by commas: "1,1,2"')
    return tuple(map(float, parts))


def _join_sizes(value: tuple[float, ...]) -> str:
    return ",".join(repr(size).removesuffix(".0") for size in value)


def _split_trackers(value: object) -> tuple[str, ...]:
    names = [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else [repr(value)]
    if unknown := [name for name in names if name not in _TRACKERS]:
        raise ValueError(f"unknown tracker {unknown[0]}; known: {', '.join(_TRACKERS)}{near(unknown[0], _TRACKERS)}")
    return tuple(dict.fromkeys(names))


def _split_mixture(value: object) -> tuple[tuple[str, float], ...]:
    """``"pgd:2,cw:1"`` -> ``(("pgd", 2.0), ("cw", 1.0))``."""
    parts = [part.strip() for part in value.split(",")] if isinstance(value, str) else [""]
    matches = [re.fullmatch(r"(fgsm|bim|pgd|cw|deepfool)\s*:\s*(\d+(?:\.\d*)?(?:e[+-]?\d+)?)", part) for part in parts]
    weights = [(match[1], float(match[2])) for match in matches if match]
    if len(weights) != len(parts) or len({name for name, _ in weights}) != len(parts):
        raise ValueError('write each attack (fgsm, bim, pgd, cw, deepfool) once, with its weight: "pgd:2,cw:1"')
    if not all(weight > 0 for _, weight in weights):
        raise ValueError("the weights must be above 0; leave out an attack that you do not want")
    return tuple(weights)


def _join_mixture(value: tuple[tuple[str, float], ...]) -> str:
    """Write the weights as short as they can be read back the same."""
    texts = [(name, f"{weight:g}" if float(f"{weight:g}") == weight else repr(weight)) for name, weight in value]
    return ",".join(f"{name}:{text}" for name, text in texts)


_TORCHVISION, _OWN = "torchvision:NAME", "FILE.py:NAME"


def _check_name(allowed: Sequence[str], name: str) -> str:
    """Pass on a name that is in the list, or is one of torchvision's or of a user's file."""
    if name in set(allowed) - {_TORCHVISION, _OWN} or is_user_code(name):
        return name
    if _TORCHVISION in allowed and re.fullmatch(r"torchvision:\w+", name):
        return name
    raise ValueError(f"unknown; allowed: {', '.join(allowed)}{near(name, list(allowed))}")


def _check_dataset(allowed: Sequence[str], name: str) -> str:
    """Pass on a name that is in the list, or is ``hf:NAME`` or ``medmnist:NAME``."""
    if name in allowed and not name.endswith(":NAME"):
        return name
    if re.fullmatch(r"hf:[^:\s][^:]*(:[^:]+)?|medmnist:\w+", name) and visible(name) == name:
        return name
    raise ValueError(f"unknown; allowed: {', '.join(allowed)}{near(name, list(allowed))}")


def _check_folder_name(name: str) -> str:
    """Pass on what names one folder in ``results.dir``, also to a shell; for an empty one, a name is made up."""
    outside = name in {".", ".."} or set(name) & {"/", "\\"}
    if outside or name[:1] in {"-", "~"} or name != name.strip() or visible(name) != name or len(name.encode()) > 200:
        raise ValueError(
            "must be one folder's name: no / and no \\, not . or .., no - or ~ at its start, no space at its ends, no "
            "control character, 200 bytes at most"
        )
    return name


def join(value: tuple[object, ...]) -> str:
    """Write a list as one string."""
    return ",".join(map(str, value))


# Flower's run config has no lists: they are strings there, and tuples here.
AttackLabels = Annotated[tuple[str, ...], BeforeValidator(parse_labels), PlainSerializer(join)]
FinalAttackLabels = Annotated[tuple[str, ...], BeforeValidator(_final_labels), PlainSerializer(join)]
Milestones = Annotated[tuple[int, ...], BeforeValidator(_split_milestones), PlainSerializer(join)]
Sizes = Annotated[tuple[float, ...], BeforeValidator(_split_sizes), PlainSerializer(_join_sizes)]
Trackers = Annotated[tuple[str, ...], BeforeValidator(_split_trackers), PlainSerializer(join)]
MixtureWeights = Annotated[
    tuple[tuple[str, float], ...], BeforeValidator(_split_mixture), PlainSerializer(_join_mixture)
]

_DATASETS = (
    *("shapes10", "cifar10", "cifar100", "svhn", "fashion-mnist", "tiny-imagenet", "folder", "split"),
    *("hf:NAME", "medmnist:NAME"),
)
_MODELS = ("cnn", "cnn2", "resnet18", _TORCHVISION, _OWN)
_ATTACKS = ("none", "fgsm", "bim", "pgd", "cw", "deepfool", "mixture", _OWN)
_PERSONAL = ("fedbn", "fedper", "fedrep", "ditto", "fedrbn")
_METHODS = ("fedavg", "fedprox", "scaffold", "feddyn", "feddynat", "moon", "mixfat", "dbfat", "sfat", *_PERSONAL, _OWN)
_STRATEGIES = (
    *("fedavg", "fedavgm", "fedadagrad", "fedadam", "fedyogi", "qfedavg"),
    *("krum", "multi-krum", "bulyan", "trimmed-mean", "median", "geometric-median", "centered-clipping"),
    *("fltrust", "fedgreed", _OWN),
)
_SELECTIONS = ("uniform", "size", "power-of-choice", _OWN)
_LOSSES = ("pgd-at", "mixed-at", "trades", "mart", "calfat", "logit-calibrated", "boundary-weighted", _OWN)
DatasetName = Annotated[str, AfterValidator(partial(_check_dataset, _DATASETS)), WithJsonSchema({"enum": _DATASETS})]
ModelName = Annotated[str, AfterValidator(partial(_check_name, _MODELS)), WithJsonSchema({"enum": _MODELS})]
AttackName = Annotated[str, AfterValidator(partial(_check_name, _ATTACKS)), WithJsonSchema({"enum": _ATTACKS})]
MethodName = Annotated[str, AfterValidator(partial(_check_name, _METHODS)), WithJsonSchema({"enum": _METHODS})]
SelectionName = Annotated[str, AfterValidator(partial(_check_name, _SELECTIONS)), WithJsonSchema({"enum": _SELECTIONS})]
StrategyName = Annotated[str, AfterValidator(partial(_check_name, _STRATEGIES)), WithJsonSchema({"enum": _STRATEGIES})]
LossName = Annotated[str, AfterValidator(partial(_check_name, _LOSSES)), WithJsonSchema({"enum": _LOSSES})]

FolderName = Annotated[str, AfterValidator(_check_folder_name)]


def _check_limit(limit: float) -> float:
    """Refuse a limit that half of all honest clients break."""
    if 0 < limit < 1:
        raise ValueError("allowed: 0 for no limit, or a number of 1 or more")
    return limit


Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
UpdateLimit = Annotated[float, Field(ge=0), AfterValidator(_check_limit)]
Resize = Literal["squash", "crop", "pad"]
ActivationName = Literal[
    "relu", "leaky-relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "tanh"
]
SchemeName = Literal[
    "iid",
    "dirichlet",
    "pathological",
    "shards",
    "paper",
    "size",
    "linear",
    "square",
    "exponential",
    "distribution",
    "inner-dirichlet",
    "natural",
]
LieName = Literal[
    "sign-flip",
    "scaled",
    "gaussian",
    "alie",
    "ipm",
    "min-max",
    "min-sum",
    "mimic",
    "label-flip",
    "backdoor",
    "pseudo-robust",
]
