"""The run configuration: parsed and checked once, frozen ever after.

The defaults are in ``[tool.flwr.app.config]`` of ``pyproject.toml`` and nowhere else. Keys are written in kebab case
with dots between the tables (``attack.epsilon-255``), as ``flwr run --run-config`` writes them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from common.attacks.threat import AttackSpec, Minimal
from common.config.flat import Flat, default_config, flatten, nest
from common.errors import RENAME, FedShieldError, is_text
from common.user_code import is_own
from common.words import near, visible

OWN_KEYS = ("model.name", "loss.name", "attack.name", "evaluate.attacks", "evaluate.final-attacks")  # FILE.py:NAME
_TRACKERS = ["tensorboard", "mlflow", "wandb"]


def parse_labels(value: object) -> tuple[str, ...]:
    """``"fgsm,pgd"`` -> ``("fgsm", "pgd-10")``; a ValueError names an attack that is not known."""
    if not isinstance(value, str):
        raise ValueError('write the attacks as one string, separated by commas: "fgsm,pgd-10"')
    return tuple(dict.fromkeys(str(AttackSpec.parse(part.strip())) for part in value.split(",") if part.strip()))


def _split_milestones(value: object) -> tuple[int, ...]:
    if not isinstance(value, str) or not re.fullmatch(r"\s*(\d+\s*(,\s*\d+\s*)*)?", value):
        raise ValueError('write the rounds as one string, separated by commas: "50,75"')
    rounds = tuple(int(part) for part in value.split(",") if part.strip())
    if list(rounds) != sorted(set(rounds)):
        raise ValueError("the rounds must be in increasing order")
    return rounds


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
    """Pass on a name that is allowed as it stands, or as something of torchvision's or of a user's file."""
    if name in set(allowed) - {_TORCHVISION, _OWN} or is_own(name):
        return name
    if _TORCHVISION in allowed and re.fullmatch(r"torchvision:\w+", name):
        return name
    raise ValueError(f"unknown; allowed: {', '.join(allowed)}{near(name, list(allowed))}")


def _check_folder_name(name: str) -> str:
    """Pass on what names one folder in ``results.dir``, also to a shell; nothing at all means a name is made up."""
    outside = name in {".", ".."} or set(name) & {"/", "\\"}
    if outside or name[:1] in {"-", "~"} or name != name.strip() or visible(name) != name or len(name.encode()) > 200:
        raise ValueError(
            "must be one folder's name: no / and no \\, not . or .., no - or ~ at its start, no blank at its ends, no "
            "control character, 200 bytes at most"
        )
    return name


def _join(value: tuple[object, ...]) -> str:
    return ",".join(map(str, value))


# Flower's run config has no lists: they are strings there, and tuples here.
AttackLabels = Annotated[tuple[str, ...], BeforeValidator(parse_labels), PlainSerializer(_join)]
Milestones = Annotated[tuple[int, ...], BeforeValidator(_split_milestones), PlainSerializer(_join)]
Trackers = Annotated[tuple[str, ...], BeforeValidator(_split_trackers), PlainSerializer(_join)]
Mixture = Annotated[tuple[tuple[str, float], ...], BeforeValidator(_split_mixture), PlainSerializer(_join_mixture)]

_MODELS = ("cnn", "cnn2", "resnet18", _TORCHVISION, _OWN)
_ATTACKS = ("none", "fgsm", "bim", "pgd", "cw", "deepfool", "mixture", _OWN)
_LOSSES = ("pgd-at", "mixed-at", "trades", "mart", "calfat", _OWN)
ModelName = Annotated[str, AfterValidator(partial(_check_name, _MODELS)), WithJsonSchema({"enum": _MODELS})]
AttackName = Annotated[str, AfterValidator(partial(_check_name, _ATTACKS)), WithJsonSchema({"enum": _ATTACKS})]
LossName = Annotated[str, AfterValidator(partial(_check_name, _LOSSES)), WithJsonSchema({"enum": _LOSSES})]

FolderName = Annotated[str, AfterValidator(_check_folder_name)]


def _check_limit(limit: float) -> float:
    """Refuse a limit that half of all honest clients break."""
    if 0 < limit < 1:
        raise ValueError("allowed: 0 for no limit, or a number of 1 or more")
    return limit


_QUICK = 1500  # images of shapes10 that a run of a minute trains on

Positive = Annotated[int, Field(ge=1)]
Natural = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
PositiveFraction = Annotated[float, Field(gt=0, le=1)]
ActivationName = Literal[
    "relu", "leaky-relu", "prelu", "elu", "selu", "celu", "gelu", "silu", "mish", "softplus", "tanh"
]


class _Table(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )


class DataConfig(_Table):
    """Which images; see ``common.data.datasets``."""

    name: Literal["shapes10", "cifar10", "cifar100", "svhn", "fashion-mnist", "folder", "split"]
    root: str
    max_examples: Annotated[int, Field(ge=-1)]
    image_size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)]

    @property
    def limit(self) -> int:
        """How many training images may be used, 0 for all: without a word of the user's, only our own data is cut."""
        return self.max_examples if self.max_examples >= 0 else _QUICK if self.name == "shapes10" else 0

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels; only files may have another one than 32."""
        return self.image_size if self.name in {"folder", "split"} else 32


class FederationConfig(_Table):
    """How many clients train, for how long, and how many must answer."""

    clients: Positive
    rounds: Positive
    fraction: PositiveFraction
    min_fraction: PositiveFraction
    node_wait_seconds: Natural
    client_timeout_seconds: Positive

    @property
    def cohort(self) -> int:
        """Number of clients that train in a round."""
        return max(1, round(self.fraction * self.clients))

    @property
    def min_replies(self) -> int:
        """Number of valid replies below which a round ends the run."""
        return math.ceil(self.min_fraction * self.cohort - 1e-9)  # 0.07 × 100 is a little more than 7 in floats


class PartitionConfig(_Table):
    """How the private training images are divided among the clients; see ``common.data.partition``."""

    scheme: Literal["iid", "dirichlet", "pathological", "shards", "paper"]
    alpha: Annotated[float, Field(gt=0)]
    classes_per_client: Positive


class StrategyConfig(_Table):
    """How the server combines the clients' replies into one model; see ``server.aggregation``."""

    name: Literal["fedavg", "krum", "multi-krum", "bulyan", "trimmed-mean", "median"]
    malicious: Natural
    update_limit: Annotated[float, Field(ge=0), AfterValidator(_check_limit)]


class ByzantineConfig(_Table):
    """Clients that send false updates together, in simulations; see ``simulations.engine.byzantine``."""

    clients: Natural
    attack: Literal["sign-flip", "scaled", "gaussian", "alie"]
    strength: Annotated[float, Field(gt=0)]


class SharingConfig(_Table):
    """The globally shared data (Zhao et al. 2018, arXiv 1806.00582)."""

    pool_fraction: Annotated[float, Field(ge=0, lt=1)]
    fraction: Fraction


class ModelConfig(_Table):
    """The network; see ``common.models.networks``."""

    name: ModelName
    width: Annotated[int, Field(ge=1, le=1024)]
    activation: ActivationName
    stem: Literal["small", "imagenet"]
    downsample: bool


class AttackConfig(_Table):
    """The threat model (Linf) and the attack used in training; see ``common.attacks.library``."""

    name: AttackName
    epsilon_255: Annotated[float, Field(ge=0, le=255)]
    step_255: Annotated[float, Field(gt=0, le=255)]
    steps: Positive
    fast: bool
    mixture: Mixture
    mixture_rate: Annotated[float, Field(ge=0)]


class LossConfig(_Table):
    """The training method; see ``common.training.losses``."""

    name: LossName
    beta: Annotated[float, Field(ge=0)]


class TrainConfig(_Table):
    """Local training; see ``common.training.trainer``."""

    local_epochs: Natural
    batch_size: Positive
    learning_rate: Annotated[float, Field(gt=0)]
    momentum: Annotated[float, Field(ge=0, lt=1)]
    weight_decay: Annotated[float, Field(ge=0)]
    schedule: Literal["milestones", "cosine", "cyclic"]
    milestones: Milestones
    warmup: Natural
    label_smoothing: Annotated[float, Field(ge=0, lt=1)]
    noise_std: Annotated[float, Field(ge=0)]
    augment: bool
    precision: Literal["float32", "bfloat16"]
    attack_precision: Literal["train", "bfloat16", "auto"]
    cuda_graphs: bool


class CentralizedConfig(_Table):
    """Training without a federation; see ``simulations.centralized``."""

    epochs: Positive


class EvaluateConfig(_Table):
    """What the server measures; see ``common.evaluation.evaluate``."""

    every: Positive
    examples: Natural
    attacks: AttackLabels
    step_255: Annotated[float, Field(gt=0, le=255)]
    final_examples: Natural
    final_attacks: AttackLabels


class ResultsConfig(_Table):
    """Where the run directory goes; see ``server.run_directory.writer``."""

    dir: str
    name: FolderName
    resume: str
    prometheus_port: Annotated[int, Field(ge=0, le=65535)]
    prometheus_host: Annotated[str, Field(min_length=1)]
    trackers: Trackers


class RunConfig(_Table):
    """The whole configuration of a run."""

    seed: Natural
    threads: Annotated[int, Field(ge=0, le=1024)]
    data: DataConfig
    federation: FederationConfig
    partition: PartitionConfig
    sharing: SharingConfig
    strategy: StrategyConfig
    byzantine: ByzantineConfig
    model: ModelConfig
    attack: AttackConfig
    loss: LossConfig
    train: TrainConfig
    centralized: CentralizedConfig
    evaluate: EvaluateConfig
    results: ResultsConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if 2 * self.byzantine.clients >= self.federation.clients:
            raise ValueError(
                f"byzantine.clients = {self.byzantine.clients}: of {self.federation.clients} clients, fewer than half "
                "may lie; no strategy works with more"
            )
        if self.model.name == "cnn2" and self.data.name in {"folder", "split"} and self.data.image_size != 32:
            raise ValueError(
                f"data.image-size = {self.data.image_size}: model.name = cnn2 is made for 32; "
                "set data.image-size=32 or another model"
            )
        if self.model.stem == "imagenet" and self.model.name != "resnet18":
            raise ValueError(
                f"model.stem = imagenet: model.name = {self.model.name} has no such stem; set model.stem=small"
            )
        for key, value in {"activation": "relu", "stem": "small", "downsample": True}.items():
            if self.model.name.startswith("torchvision:") and getattr(self.model, key) != value:
                raise ValueError(
                    f"model.{key} = {getattr(self.model, key)}: model.name = {self.model.name} has its own; leave it "
                    f"at {str(value).lower()}"
                )
        if self.loss.name in {"trades", "calfat"} and self.attack.name != "pgd":
            raise ValueError(
                f"attack.name = {self.attack.name}: loss.name = {self.loss.name} has its own attack, PGD on a KL "
                "divergence; set attack.name=pgd"
            )
        families = [AttackSpec.parse(label).family for label in self.evaluate.attacks]
        if self.data.validation_fraction > 0 and all(isinstance(family, Minimal) for family in families):
            raise ValueError(
                f"evaluate.attacks = '{_join(self.evaluate.attacks)}': data.validation-fraction chooses the checkpoint "
                "by robust accuracy; name an attack within epsilon, as in evaluate.attacks=pgd-10"
            )
        return self

    def check_division(self) -> None:
        """Check what is said of dividing the data, where it is not divided already and not for centralised training.

        Raises:
            FedShieldError: one line with the key, what was found and what to do.
        """
        if self.data.name == "split":
            return
        if self.partition.scheme == "paper" and self.federation.clients != 10:
            raise FedShieldError(
                f"federation.clients = {self.federation.clients}: partition.scheme = paper is made for 10 clients; "
                "set federation.clients=10 or another scheme"
            )
        if self.sharing.fraction > 0 and self.sharing.pool_fraction == 0:
            raise FedShieldError(
                f"sharing.fraction = {self.sharing.fraction}: there is no pool to share; "
                "set sharing.pool-fraction above 0, or sharing.fraction=0"
            )

    def own_references(self) -> list[tuple[str, str]]:
        """Return the user's code that is named here: key and ``FILE.py:NAME``, without an attack's steps."""
        named = [("model.name", self.model.name), ("loss.name", self.loss.name), ("attack.name", self.attack.name)]
        measured = {"evaluate.attacks": self.evaluate.attacks, "evaluate.final-attacks": self.evaluate.final_attacks}
        for key, labels in measured.items():
            named += [(key, AttackSpec.parse(label).name) for label in labels]
        return [(key, name) for key, name in named if is_own(name)]

    def flat(self) -> Flat:
        """Return the configuration as Flower carries it: dotted keys, scalar values."""
        return flatten(self.model_dump(by_alias=True))


def parse_config(flat: Mapping[str, Any]) -> RunConfig:
    """Check a complete flat configuration and return it typed.

    Raises:
        FedShieldError: one line with the full key, what was found and what is allowed.
    """
    for key, value in flat.items():
        if not is_text(str(value)):
            raise FedShieldError(f"{key} = {str(value)!r}: not UTF-8; {RENAME}")
    try:
        return RunConfig.model_validate(nest(flat))
    except ValidationError as error:
        # One mistake at a time: the first is the one the user reads.
        raise FedShieldError(_one_line(error.errors()[0])) from error


def _one_line(error: Any) -> str:
    key = ".".join(map(str, error["loc"]))
    message = str(error["msg"]).removeprefix("Value error, ")
    if not key:  # two keys that do not fit together: the message names them
        return message
    found = error["input"]
    if error["type"] == "missing":
        return f"missing key {key}"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{near(key, list(default_config()))}"
    if error["type"] == "literal_error":
        allowed = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{key} = {found!r}: unknown; allowed: {allowed}{near(str(found), allowed.split(', '))}"
    if error["type"] == "string_type":
        return f'{key} = {found}: not in quotes; write {key} = "{found}"'
    return f"{key} = {found!r}: {message[0].lower()}{message[1:]}{_HOW.get(error['type'], '')}"


_WHOLE_NUMBER = "; write a whole number, as in 20"
_HOW = {  # types of pydantic's errors -> how to write it
    "bool_type": "; write true or false",
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_type": "; write a number, as in 0.5",
}
