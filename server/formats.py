"""What the files of a run directory look like, as far as their readers count on it."""

from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from common.errors import FedShieldError


class Format(BaseModel):
    """What must be in a file; what else is there is nobody's concern."""

    model_config = ConfigDict(strict=True)


class Rate(Format):
    """A share of images, with its 95 % interval."""

    value: float
    interval: Annotated[list[float], Field(min_length=2, max_length=2)]


class Figures(Format):
    """An evaluation."""

    n: int
    natural: Rate
    robust: dict[str, Rate]
    worst: Rate | None  # without an attack there is none
    predictions: str = ""

    @model_validator(mode="after")
    def _with_a_worst_case(self) -> Self:
        if self.robust and self.worst is None:
            raise ValueError("attacks without a worst case")
        return self


class Round(Format):
    """A line of ``metrics.jsonl``."""

    round: int
    seconds: float
    evaluation: Figures | None
    validation: Figures | None = None


class Summary(Format):
    """``summary.json``."""

    evaluated: int = Field(alias="evaluated-round")
    final: Figures | None


class Evaluated(Figures):
    """A line of ``evaluations.jsonl``."""

    round: int


class Division(Format):
    """``partition.json``."""

    classes: Annotated[list[str], Field(min_length=1)]
    clients: list[list[int]]

    @model_validator(mode="after")
    def _of_the_same_classes(self) -> Self:
        if any(len(counts) != len(self.classes) for counts in self.clients):
            raise ValueError(f"clients do not count {len(self.classes)} classes")
        return self


class Environment(Format):
    """``environment.json``, of which a run that has only begun has the kind alone."""

    packages: dict[str, str | None] = {}


class Named(Format):
    """A model that is kept."""

    round: int
    model: str
    sha256: str


class Stored(Format):
    """A file, and its digest."""

    file: str
    sha256: str


class Value(Format):
    """A share of images."""

    value: float


class Validation(Format):
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


def check_format(content: Any, wanted: type[Format], place: str) -> None:
    """See that what was read from a file of a run directory has the shape that its readers count on.

    Args:
        content: of the file, or of a line of it.
        wanted: its shape.
        place: what a complaint begins with.

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
