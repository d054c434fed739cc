"""The tables of the configuration that say which images there are, and who has which."""

from typing import Annotated, Literal

from pydantic import Field

from common.config.table import ConfigTable
from common.config.values import DatasetName, Fraction, Natural, Positive, Resize, SchemeName, Sizes

_QUICK = 1500  # images of shapes10 that a run of a minute trains on


class DataConfig(ConfigTable):
    """Which images; see ``common.data.datasets``."""

    name: DatasetName
    root: Annotated[str, Field(min_length=1)]
    max_examples: Annotated[int, Field(ge=-1)]
    image_size: Annotated[int, Field(ge=16, le=512, multiple_of=16)]
    resize: Resize
    validation_fraction: Annotated[float, Field(ge=0, le=0.5)]

    @property
    def limit(self) -> int:
        """How many training images may be used, 0 for all: by default only shapes10 is limited."""
        return self.max_examples if self.max_examples >= 0 else _QUICK if self.name == "shapes10" else 0

    @property
    def keeps_class_mirrored(self) -> bool | None:
        """Whether an image that is mirrored left to right is still of its class; None where nobody knows."""
        return None if self.name in {"folder", "split"} or ":" in self.name else self.name != "svhn"

    @property
    def side(self) -> int:
        """Height and width of the images, in pixels: 32 where they are published or generated so."""
        return self.image_size if self.name in {"folder", "split", "tiny-imagenet"} or ":" in self.name else 32


class PartitionConfig(ConfigTable):
    """How the private training images are divided among the clients; see ``common.data.partition``."""

    scheme: SchemeName
    alpha: Annotated[float, Field(gt=0)]
    classes_per_client: Positive
    sizes: Sizes
    sigma: Annotated[float, Field(ge=0, le=10)]
    by: str


class SharingConfig(ConfigTable):
    """The globally shared data (Zhao et al. 2018, arXiv 1806.00582); see ``server.sharing``."""

    pool_fraction: Annotated[float, Field(ge=0, lt=1)]
    fraction: Fraction
    kind: Literal["images", "noised", "averaged", "distilled", "other-dataset"]
    noise: Fraction
    average: Positive
    per_class: Positive
    steps: Positive
    root: str
    warm_start_epochs: Natural

    @property
    def slice_fraction(self) -> float:
        """Share of the pool of which something is sent."""
        return 0.0 if self.kind == "other-dataset" else self.fraction
