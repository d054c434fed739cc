"""What the files of a run directory are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class FileFormat(BaseModel):
    """What must be in a file; other content is ignored."""

    model_config = ConfigDict(strict=True)


Share = Annotated[float, Field(ge=0, le=1)]
Length = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=0, le=10**15)]
# Only a file in the same folder: somebody may have written another path there.
FileName = Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
