"""The run configuration: parsed and checked once, frozen ever after.

The defaults are in ``[tool.flwr.app.config]`` of ``pyproject.toml`` and nowhere else. Keys are written in kebab case
with dots between the tables (``attack.epsilon-255``), as ``flwr run --run-config`` writes them.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import Field, ValidationError, model_validator

from common.attacks.threat import FAMILIES, LINF, AttackSpec, Minimal
from common.config.data_tables import DataConfig, PartitionConfig, SharingConfig
from common.config.flat import Flat, default_config, flatten, instead_of, nest
from common.config.table import ConfigTable
from common.config.tables import (
    AttackConfig,
    ByzantineConfig,
    CentralizedConfig,
    DiagnosisConfig,
    EvaluateConfig,
    FederationConfig,
    LossConfig,
    MethodConfig,
    ModelConfig,
    PrivacyConfig,
    RepairConfig,
    ResultsConfig,
    StrategyConfig,
    TrainConfig,
)
from common.config.values import AUTO, Natural, join
from common.errors import RENAME, FedShieldError, is_text
from common.user_code import is_user_code
from common.words import near

USER_CODE_KEYS = (
    "model.name",
    "loss.name",
    "method.name",
    "strategy.name",
    "federation.selection",
    "attack.name",
    "evaluate.attacks",
    "evaluate.final-attacks",
)  # FILE.py:NAME
OWN_TABLES = ("model", "loss", "method", "strategy", "attack")  # whose ``name`` a run keeps a copy of
_QUICK_ATTACKS = ("fgsm", "pgd-20")


class RunConfig(ConfigTable):
    """The whole configuration of a run."""

    seed: Natural
    threads: Annotated[int, Field(ge=0, le=1024)]
    data: DataConfig
    federation: FederationConfig
    partition: PartitionConfig
    sharing: SharingConfig
    privacy: PrivacyConfig
    strategy: StrategyConfig
    byzantine: ByzantineConfig
    model: ModelConfig
    attack: AttackConfig
    loss: LossConfig
    method: MethodConfig
    train: TrainConfig
    centralized: CentralizedConfig
    evaluate: EvaluateConfig
    diagnosis: DiagnosisConfig
    repair: RepairConfig
    results: ResultsConfig

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if 2 * self.byzantine.clients >= self.federation.clients:
            raise ValueError(
                f"byzantine.clients = {self.byzantine.clients}: of {self.federation.clients} clients, fewer than half "
                "may lie; no strategy works with more"
            )
        self._check_model()
        self._check_attack()
        lengths = {
            "attack.epsilon-255": self.attack.epsilon_255,
            "attack.step-255": self.attack.step_255,
            "evaluate.step-255": self.evaluate.step_255,
        }
        for key, length in lengths.items():
            if self.attack.norm == LINF and length > 255:
                raise ValueError(
                    f"{key} = {length:g}: 255 is the whole range of a pixel in attack.norm = linf; set 255 or less"
                )
        families = [AttackSpec.parse(label).family for label in self.evaluate.attacks]
        if self.data.validation_fraction > 0 and all(isinstance(family, Minimal) for family in families):
            raise ValueError(
                f"evaluate.attacks = '{join(self.evaluate.attacks)}': data.validation-fraction chooses the checkpoint "
                "by robust accuracy; name an attack within epsilon, as in evaluate.attacks=pgd-10"
            )
        return self

    def _check_model(self) -> None:
        """Check that the network has what is said of it."""
        if self.model.name == "cnn2" and self.data.side != 32:
            raise ValueError(
                f"data.image-size = {self.data.image_size}: model.name = cnn2 is made for 32; "
                "set data.image-size=32 or another model"
            )
        if self.model.stem == "imagenet" and self.model.name != "resnet18":
            raise ValueError(
                f"model.stem = imagenet: model.name = {self.model.name} has no such stem; set model.stem=small"
            )
        if self.model.name == "cnn2" and self.model.norm != "batch":
            raise ValueError(
                f"model.norm = {self.model.norm}: model.name = cnn2 has no normalization; leave it at batch"
            )
        own = {"activation": "relu", "stem": "small", "downsample": True, "norm": "batch"}
        for key, value in own.items():
            if self.model.name.startswith("torchvision:") and getattr(self.model, key) != value:
                raise ValueError(
                    f"model.{key} = {getattr(self.model, key)}: model.name = {self.model.name} has its own; leave it "
                    f"at {str(value).lower()}"
                )
        if self.model.weights == "torchvision" and not self.model.name.startswith("torchvision:"):
            raise ValueError(
                f"model.weights = torchvision: model.name = {self.model.name} is not torchvision's; set model.name to "
                "torchvision:NAME, or give a file or a run"
            )

    def _check_attack(self) -> None:
        """Check that the loss can be trained with the attack."""
        if self.loss.name in {"trades", "calfat"} and self.attack.name != "pgd":
            raise ValueError(
                f"attack.name = {self.attack.name}: loss.name = {self.loss.name} has its own attack; set "
                "attack.name=pgd"
            )
        if self.loss.name == "boundary-weighted" and self.attack.name not in {"bim", "pgd", "cw"}:
            raise ValueError(
                f"attack.name = {self.attack.name}: loss.name = boundary-weighted counts the steps of an attack; set "
                "attack.name to pgd, bim or cw"
            )

    @property
    def flips(self) -> bool:
        """Whether augmentation mirrors images: by default unless this changes the class, as far as is known."""
        return self.train.flip == "on" or (self.train.flip == "auto" and self.data.keeps_class_mirrored is not False)

    def check_division(self) -> None:
        """Check what is said of sharing and, where the data is not divided already, of dividing it.

        This is not for centralized training.

        Raises:
            FedShieldError: one line with the key, what was found and what to do.
        """
        if self.sharing.kind == "other-dataset" and self.sharing.fraction > 0 and not self.sharing.root:
            raise FedShieldError(
                "sharing.root is empty: sharing.kind = other-dataset sends images of an image folder; name it, or set "
                "another sharing.kind"
            )
        if self.data.name == "split":
            return
        if self.partition.scheme == "paper" and self.federation.clients != 10:
            raise FedShieldError(
                f"federation.clients = {self.federation.clients}: partition.scheme = paper is made for 10 clients; "
                "set federation.clients=10 or another scheme"
            )
        sizes = self.partition.sizes
        if self.partition.scheme in {"size", "inner-dirichlet"} and sizes and len(sizes) != self.federation.clients:
            raise FedShieldError(
                f"partition.sizes names the sizes of {len(sizes)} clients, federation.clients = "
                f"{self.federation.clients}; give one number for each client"
            )
        if self.partition.scheme == "size" and not sizes:
            raise FedShieldError(
                "partition.sizes is empty: partition.scheme = size divides by it; give one number for each client, as "
                "in partition.sizes=1,1,2, or set partition.scheme=iid"
            )
        if self.partition.scheme == "natural":
            self._check_owners()
        if self.sharing.warm_start_epochs and self.sharing.pool_fraction == 0:
            raise FedShieldError(
                f"sharing.warm-start-epochs = {self.sharing.warm_start_epochs}: there is no pool to train on; set "
                "sharing.pool-fraction above 0, or sharing.warm-start-epochs=0"
            )
        if self.sharing.slice_fraction > 0 and self.sharing.pool_fraction == 0:
            raise FedShieldError(
                f"sharing.fraction = {self.sharing.fraction}: there is no pool to share; "
                "set sharing.pool-fraction above 0, or sharing.fraction=0"
            )

    def _check_owners(self) -> None:
        """Check that it is known where the images of ``natural`` say whose they are."""
        from_hub = self.data.name.startswith("hf:")
        if not from_hub and self.data.name != "folder":
            raise FedShieldError(
                f"partition.scheme = natural: the images of data.name = {self.data.name} have no owners; use folder or "
                "hf:NAME, or another scheme"
            )
        if from_hub and not self.partition.by:
            raise FedShieldError(
                "partition.by is empty: partition.scheme = natural needs the column with each image's owner; name it"
            )

    def final_attacks(self, classes: int = 10) -> tuple[str, ...]:
        """Return the attacks of the final evaluation.

        ``auto`` ends with AutoAttack; on the generated images, which are for trying things out, with a part of it that
        takes seconds; and where there are too few classes for it, with those of its parts that take them.

        Args:
            classes: number of logits, 2 or more.
        """
        if self.evaluate.final_attacks != (AUTO,):
            return self.evaluate.final_attacks
        if classes < FAMILIES["autoattack"].classes:
            return (*_QUICK_ATTACKS, "apgd-ce", "fab-t", "square")
        return (*_QUICK_ATTACKS, "apgd-t-20" if self.data.name == "shapes10" else "autoattack")

    def user_code_references(self) -> list[tuple[str, str]]:
        """Return the user's code that is named here: key and ``FILE.py:NAME``, without an attack's steps."""
        named = [(f"{table}.name", getattr(self, table).name) for table in OWN_TABLES]
        named.append(("federation.selection", self.federation.selection))
        measured = {"evaluate.attacks": self.evaluate.attacks, "evaluate.final-attacks": self.final_attacks()}
        for key, labels in measured.items():
            named += [(key, AttackSpec.parse(label).name) for label in labels]
        return [(key, name) for key, name in named if is_user_code(name)]

    def flat(self) -> Flat:
        """Return the configuration as Flower carries it: dotted keys, scalar values."""
        return flatten(self.model_dump(by_alias=True))


_FOLDERS = ("results.dir", "data.root")  # FILE.py:NAME of a received run may be no file here: its copy is used


def parse_config(flat: Mapping[str, Any]) -> RunConfig:
    """Check a complete flat configuration and return it typed.

    Raises:
        FedShieldError: one line with the full key, what was found and what is allowed.
    """
    for key, value in flat.items():
        if not is_text(str(value)):
            raise FedShieldError(f"{key} = {str(value)!r}: not UTF-8; {RENAME}")
        if key in _FOLDERS and "\0" in str(value):
            raise FedShieldError(f"{key} = {str(value)!r:.80}: has a NUL character; leave it out")
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
    given = error["input"]
    if error["type"] == "missing":
        return f"missing key {key}"
    if error["type"] == "extra_forbidden":
        return f"unknown key {key}{instead_of(key, list(default_config()))}"
    if error["type"] == "literal_error":
        allowed = str(error["ctx"]["expected"]).replace("'", "").replace(" or ", ", ")
        return f"{key} = {given!r}: unknown; allowed: {allowed}{near(str(given), allowed.split(', '))}"
    if error["type"] == "string_type":
        return f'{key} = {given}: not in quotes; write {key} = "{given}"'
    if error["type"] == "string_too_short":
        message = "is empty; give a value, or leave it out"
    return f"{key} = {given!r}: {message[0].lower()}{message[1:]}{_HOW.get(error['type'], '')}"


_WHOLE_NUMBER = "; write a whole number, as in 20"
_HOW = {  # types of pydantic's errors -> how to write it
    "bool_type": "; write true or false",
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
    "float_type": "; write a number, as in 0.5",
}
