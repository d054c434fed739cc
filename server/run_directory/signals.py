"""What diagnosis, repair and privacy leave in a line of ``metrics.jsonl``, as far as its readers depend on it.

Also what is kept of other models: those that examples were made on, and the weights that a run began with.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from server.run_directory.formats import Count, FileFormat, Length, Share

ClientNumber = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
ByClient = dict[ClientNumber, Annotated[float, Field(ge=-1.001, le=1.001)]]


class MostPredicted(FileFormat):
    """The class that is predicted most often."""

    number: Count = Field(alias="class")
    share: Share
    true_share: Share = Field(alias="true-share")


class Gradients(FileFormat):
    """Counts that tell masked gradients."""

    correct: Count
    zero: Count
    one_step: Annotated[list[Count], Field(min_length=2, max_length=2, alias="one-step")]
    large_budget: Count = Field(alias="large-budget")
    chance: Share
    logit_gap: float | None = Field(alias="logit-gap")


class Signals(FileFormat):
    """What was measured: of the model where images were held out, of the replies where there were clients."""

    n: Annotated[Count, Field(ge=1)] | None = None
    natural: Share | None = None
    fgsm: Share | None = None
    pgd: Share | None = None
    training: Share | None = Field(None, alias="training-attack")
    examples: list[Count] = Field([], alias="class-examples")
    by_class: list[Count] = Field([], alias="class-natural")
    by_class_attacked: list[Count] = Field([], alias="class-pgd")
    most: MostPredicted | None = Field(None, alias="most-predicted")
    gradients: Gradients | None = None
    cosines: ByClient = Field({})
    pool: ByClient = Field({}, alias="pool-cosines")
    dispersion: Length | None = None

    @model_validator(mode="after")
    def _together(self) -> Self:
        if self.n is not None and (self.natural is None or self.most is None or not self.by_class):
            raise ValueError("images were looked at, but natural, most-predicted or class-natural is missing")
        if (self.gradients is not None or self.by_class_attacked) and (self.n is None or self.pgd is None):
            raise ValueError("gradients or class-pgd without n and pgd")
        if any(each and len(each) != len(self.examples) for each in (self.by_class, self.by_class_attacked)):
            raise ValueError("counts of other classes than class-examples")
        return self


class StoredAction(FileFormat):
    """What has been done after a round, as ``server.repair`` writes it."""

    action: str
    trouble: str
    told: str


class StoredDiagnosis(FileFormat):
    """A trouble, as ``server.diagnosis`` writes it."""

    name: str
    severity: Literal["mild", "severe"]
    evidence: str
    since: Count = Field(alias="since-round")
    clean: Count = Field(alias="clean-rounds")
    clients: list[Count] = Field([])


class StoredPrivacy(FileFormat):
    """What the models up to a round have cost a client."""

    epsilon: Length
    delta: Share
    noise: Literal["seeded", "secret"]


class StoredSource(FileFormat):
    """A run on whose model examples were made."""

    name: str
    round: Count
    sha256: str


class StoredStart(FileFormat):
    """The weights that a run was given to begin with."""

    source: str = Field(alias="from")
    sha256: str
    round: Count | None = None
    unit: str = "round"
    name: str = ""
