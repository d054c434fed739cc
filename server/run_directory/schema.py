"""The content of the files of a run directory, as far as their readers depend on it."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from common.attacks.threat import LINF, Norm
from common.errors import FedShieldError
from server.run_directory.formats import Count, FileFormat, FileName, Length, Share
from server.run_directory.signals import (
    ClientNumber,
    Signals,
    StoredAction,
    StoredDiagnosis,
    StoredPrivacy,
    StoredSource,
    StoredStart,
)


class StoredRate(FileFormat):
    """A share of images, with its 95 % interval."""

    value: Share
    interval: Annotated[list[Share], Field(min_length=2, max_length=2)]


class StoredDistortion(FileFormat):
    """What an attack without a budget needed."""

    success: StoredRate | None
    l2: Length | None = Field(None, alias="median-l2")
    linf: Length | None = Field(None, alias="median-linf")


class CurvePoint(StoredRate):
    """A point of the curve over epsilon."""

    epsilon: Length = Field(alias="epsilon-255")
    attack: str


class StoredCalibration(FileFormat):
    """Whether the model is right as often as it is sure."""

    ece: Share
    confidence: Share


class CorruptedRate(StoredRate):
    """Accuracy under one severity of a corruption."""

    ece: Share | None


class StoredCorruption(FileFormat):
    """Accuracy under one kind of corruption."""

    severities: Annotated[list[CorruptedRate], Field(min_length=5, max_length=5)]
    mean: StoredRate


class StoredCorruptions(FileFormat):
    """Accuracy under common corruptions."""

    kinds: Annotated[dict[str, StoredCorruption], Field(min_length=1)]
    mean: StoredRate
    ece: Share | None


class OnTheSame(FileFormat):
    """Accuracy of a model, without and under attack."""

    natural: Share
    robust: Share | None


class StoredOwn(OnTheSame):
    """Accuracy of a client's own model, and of the global one on the same images."""

    client: Count
    n: Annotated[Count, Field(ge=1)]
    beside: OnTheSame = Field(alias="global")


class StoredPersonal(FileFormat):
    """Accuracy of the clients' own models."""

    clients: Annotated[list[StoredOwn], Field(min_length=1)]
    attacks: list[str] = Field([])


class StoredBackdoor(FileFormat):
    """How often the trigger of a backdoor does what it is meant to do."""

    target: str
    hit: StoredRate = Field(alias="with")
    without: StoredRate
    n: Count


class Figures(FileFormat):
    """An evaluation, as far as it was made in detail."""

    n: Annotated[Count, Field(ge=1)]
    natural: StoredRate
    robust: dict[str, StoredRate]
    worst: StoredRate | None  # without an attack there is none
    predictions: str = ""
    warnings: list[str] = Field([])
    sources: list[StoredSource] = Field([], alias="from")
    parts: dict[str, StoredRate] = Field({})
    distortions: dict[str, StoredDistortion] = Field({})
    curve: list[CurvePoint] = Field([])
    calibration: StoredCalibration | None = None
    corruptions: StoredCorruptions | None = None
    personal: StoredPersonal | None = None
    backdoor: StoredBackdoor | None = None
    classes: list[str] = Field([])
    examples: list[Count] = Field([], alias="class-examples")
    per_class: dict[str, list[StoredRate | None]] = Field({}, alias="per-class")
    per_client: dict[str, list[float | None]] = Field({}, alias="per-client")
    epsilon: float | None = Field(None, alias="epsilon-255")

    @model_validator(mode="after")
    def _with_a_worst_case(self) -> Self:
        if self.robust and self.worst is None:
            raise ValueError("attacks without a worst case")
        return self

    @model_validator(mode="after")
    def _of_all_classes(self) -> Self:
        lists: list[list[Any]] = [self.examples, *self.per_class.values()]
        if any(each and len(each) != len(self.classes) for each in lists):
            raise ValueError(f"figures of each class, but not of {len(self.classes)} classes")
        return self


class Client(FileFormat):
    """What a client did in a round."""

    loss: float
    seconds: float
    update: Length | None = Field(None, alias="update-norm")


class Transferred(FileFormat):
    """Bytes of the arrays that went to the clients in a round, and of those in well-formed replies."""

    sent: Count
    received: Count


class Round(FileFormat):
    """A line of ``metrics.jsonl``."""

    round: Annotated[Count, Field(ge=1)]
    seconds: Length
    loss: float | None = None
    update: Length | None = Field(None, alias="update-norm")
    evaluation: Figures | None
    validation: Figures | None = None
    clients: dict[ClientNumber, Client] = Field({})
    refused: dict[ClientNumber, str] = Field({})
    shortened: dict[ClientNumber, str] = Field({})
    retried: dict[ClientNumber, str] = Field({})
    distrusted: list[Count] = Field([])
    signals: Signals | None = None
    diagnoses: list[StoredDiagnosis] = Field([])
    transferred: Transferred | None = Field(None, alias="bytes")
    repairs: list[StoredAction] = Field([])
    failed: str = ""
    privacy: StoredPrivacy | None = None


class Summary(FileFormat):
    """``summary.json``."""

    rounds: Count = 0
    evaluated: Count = Field(alias="evaluated-round")
    final: Figures | None


class Evaluated(Figures):
    """A line of ``evaluations.jsonl``."""

    round: Count
    epsilon: Length = Field(0.0, alias="epsilon-255")
    norm: Norm = LINF  # what earlier versions knew alone


class StoredDistance(FileFormat):
    """How far apart clients are without what is shared, and with it."""

    before: Length
    after: Length


class DescribedPartition(FileFormat):
    """``partition.json``."""

    classes: Annotated[list[str], Field(min_length=1)]
    clients: list[list[Count]]
    pool: list[Count] = Field([])
    shared: list[Count] = Field([])
    validation: list[Count] = Field([])
    test: list[Count] = Field([])
    used: Count = 0
    available: Count = 0
    shared_kind: str = Field("images", alias="shared-kind")
    alignment: dict[str, StoredDistance] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _of_the_same_classes(self) -> Self:
        if any(len(counts) != len(self.classes) for counts in self.clients):
            raise ValueError(f"clients do not count {len(self.classes)} classes")
        return self


class Environment(FileFormat):
    """``environment.json``, of which a run that has only begun has the kind alone."""

    packages: dict[str, str | None] = Field({})
    threads: Annotated[int, Field(ge=0, le=1024)] = 0
    precision: Literal["", "train", "bfloat16"] = Field("", alias="attack-precision")
    resumed: list[dict[str, Any]] = Field([])
    weights: StoredStart | None = None


class Named(FileFormat):
    """A model that is kept."""

    round: Count
    model: FileName
    sha256: str


class Stored(FileFormat):
    """A file, and its digest."""

    file: FileName
    sha256: str


class Value(FileFormat):
    """A share of images."""

    value: Share


class Validation(FileFormat):
    """What a model is chosen by."""

    natural: Value
    worst: Value


class Best(Named):
    """The best model, and why it is."""

    validation: Validation


class Checkpoint(Named):
    """``checkpoint/checkpoint.json``, and ``previous.json``."""

    best: Best | None = None
    optimizer: Stored | None = None
    unaveraged: Stored | None = None
    good: Stored | None = None
    server: Stored | None = None
    clients: Stored | None = None


def check_format(content: Any, wanted: type[FileFormat], place: str) -> None:
    """Check that what was read from a file of a run directory has the shape that its readers expect.

    Args:
        content: of the file, or of a line of it.
        wanted: its shape.
        place: how an error message begins.

    Raises:
        FedShieldError: another version of FedShield wrote it, or it is damaged.
    """
    try:
        wanted.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        what = f"{key}: {message[0].lower()}{message[1:]}" if key else message
        raise FedShieldError(
            f"{place}: damaged, or of another version of FedShield ({what}); use that version, or start a new run"
        ) from error
