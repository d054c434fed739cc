"""A table of the configuration."""

from pydantic import BaseModel, ConfigDict


class ConfigTable(BaseModel):
    """What every table has in common."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
    )
