"""The tables of the configuration, each of them typed, frozen, and checked by itself."""

import math
from typing import Annotated, Literal

from pydantic import Field

from common.attacks.threat import Norm
from common.config.table import ConfigTable
from common.config.values import (
    ActivationName,
    AttackLabels,
    AttackName,
    FinalAttackLabels,
    FolderName,
    Fraction,
    LieName,
    LossName,
    MethodName,
    Milestones,
    MixtureWeights,
    ModelName,
    Natural,
    Positive,
    PositiveFraction,
    SelectionName,
    StrategyName,
    Trackers,
    UpdateLimit,
)


class FederationConfig(ConfigTable):
    """How many clients train, for how long, and how many must answer."""

    clients: Annotated[int, Field(ge=1, le=100_000)]  # a simulation makes an object for each before it reads any data
    rounds: Positive
    fraction: PositiveFraction
    min_fraction: PositiveFraction
    selection: SelectionName
    selection_among: Natural
    adversarial_clients: Fraction
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


class StrategyConfig(ConfigTable):
    """How the server combines the clients' replies into one model; see ``server.aggregation``."""

    name: StrategyName
    malicious: Natural
    pre: Literal["none", "nnm", "arc"]
    clip_radius: Annotated[float, Field(ge=0)]
    update_limit: UpdateLimit
    server_rate: Annotated[float, Field(gt=0, le=1e6)]
    server_momentum: Annotated[float, Field(ge=0, lt=1)]
    server_tau: Annotated[float, Field(ge=1e-12, le=1e6)]
    q: Annotated[float, Field(ge=0, le=100)]


class ByzantineConfig(ConfigTable):
    """Clients that send false updates together, in simulations; see ``simulations.engine.byzantine``."""

    clients: Natural
    attack: LieName
    strength: Annotated[float, Field(gt=0)]


class PrivacyConfig(ConfigTable):
    """Client-level differential privacy; see ``server.aggregation.private``."""

    noise_multiplier: Annotated[float, Field(ge=0, le=1e4)]
    clipping_norm: Annotated[float, Field(gt=0, le=1e6)]
    adaptive_clipping: Annotated[float, Field(ge=0, lt=1)]
    delta: Annotated[float, Field(gt=0, lt=1)]
    epsilon_max: Annotated[float, Field(ge=0)]
    noise: Literal["auto", "seeded", "secret"]


class ModelConfig(ConfigTable):
    """The network; see ``common.models.networks``."""

    name: ModelName
    width: Annotated[int, Field(ge=1, le=1024)]
    activation: ActivationName
    stem: Literal["small", "imagenet"]
    downsample: bool
    norm: Literal["batch", "group"]
    weights: str


class AttackConfig(ConfigTable):
    """The threat model and the attack used in training; see ``common.attacks.library``."""

    name: AttackName
    norm: Norm
    epsilon_255: Annotated[float, Field(ge=0, le=100_000)]
    step_255: Annotated[float, Field(gt=0, le=100_000)]
    steps: Positive
    fast: bool
    mixture: MixtureWeights
    mixture_rate: Annotated[float, Field(ge=0)]


class LossConfig(ConfigTable):
    """The training method; see ``common.training.losses``."""

    name: LossName
    beta: Annotated[float, Field(ge=0)]
    calfat_absent: Annotated[float, Field(ge=0)]
    calfat_scale: Annotated[float, Field(gt=0)]
    calfat_attack: Literal["kl", "pgd"]
    margin_tau: Annotated[float, Field(ge=0, le=1e4)]


class MethodConfig(ConfigTable):
    """The federated method, with the numbers of each; see ``common.methods``."""

    name: MethodName
    prox_mu: Annotated[float, Field(ge=0, le=1e6)]
    dyn_alpha: Annotated[float, Field(ge=1e-12, le=1e6)]
    dynat_epochs: Positive
    dynat_decay: PositiveFraction
    dynat_every: Positive
    moon_mu: Annotated[float, Field(ge=0, le=1e6)]
    moon_temperature: Annotated[float, Field(ge=1e-6, le=1e6)]
    mix_share: PositiveFraction
    dbfat_beta: Annotated[float, Field(ge=0, le=1e6)]
    sfat_alpha: Annotated[float, Field(ge=0, lt=1)]
    sfat_top: Positive
    head_epochs: Positive
    ditto_lambda: Annotated[float, Field(ge=0)]
    fine_tune_epochs: Natural


class TrainConfig(ConfigTable):
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
    flip: Literal["auto", "on", "off"]
    precision: Literal["float32", "bfloat16"]
    attack_precision: Literal["train", "bfloat16", "auto"]
    cuda_graphs: bool
    awp_gamma: Annotated[float, Field(ge=0, lt=1)]
    average: Literal["none", "ema", "swa"]
    average_decay: Annotated[float, Field(ge=0, lt=1)]
    average_start: Positive


class CentralizedConfig(ConfigTable):
    """Training without a federation; see ``simulations.centralized``."""

    epochs: Positive


class EvaluateConfig(ConfigTable):
    """What the server measures; see ``common.evaluation.evaluate``."""

    every: Positive
    examples: Natural
    attacks: AttackLabels
    step_255: Annotated[float, Field(gt=0, le=100_000)]
    final_examples: Natural
    final_attacks: FinalAttackLabels
    eot: Annotated[int, Field(ge=0, le=1000)]


class DiagnosisConfig(ConfigTable):
    """What is looked for after each round; see ``server.diagnosis``."""

    enabled: bool
    examples: Annotated[int, Field(ge=20, le=10_000)]


class RepairConfig(ConfigTable):
    """What is done against the troubles that diagnosis finds; see ``server.repair``."""

    enabled: bool
    cool_down: Annotated[int, Field(ge=0, le=1000)]
    max_actions: Annotated[int, Field(ge=0, le=1000)]
    rate_factor: Annotated[float, Field(gt=0, lt=1)]
    attack_steps: Annotated[int, Field(ge=2, le=100)]
    sharing_step: PositiveFraction
    sharing_budget: Fraction
    proximal: Annotated[float, Field(ge=0, le=1000)]
    quarantine: Annotated[int, Field(ge=0, le=1000)]


class ResultsConfig(ConfigTable):
    """Where the run directory goes; see ``server.run_directory.writer``."""

    dir: Annotated[str, Field(min_length=1)]
    name: FolderName
    resume: str
    prometheus_port: Annotated[int, Field(ge=0, le=65535)]
    prometheus_host: Annotated[str, Field(min_length=1)]
    trackers: Trackers
