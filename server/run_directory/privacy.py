"""``privacy.json``: what ``fedshield privacy`` found out about a run's model.

{"at": "...", "round": 16, "sha256": "...", "seed": 1, "examples": 500,
 "attack": "pgd-20", "norm": "linf", "epsilon-255": 8.0,
 "shadows": {"count": 4, "images": 1500, "epochs": 16},                  null without LiRA
 "groups": {"pool": {"what": "...", "images": 120, "n": 120, "members": {"natural": 0.9, "robust": 0.5},
                     "others": {"natural": 0.8, "robust": 0.4}, "auc": 0.61,
                     "attacks": {"loss": {"auc": 0.55, "interval": [0.48, 0.62],
                                          "tpr": {"0.01": 0.02, "0.001": null}}}},
            "clients": {...}},
 "notes": ["..."]}
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from common.attacks.threat import Norm
from common.files import read_json, replace_json
from server.run_directory.formats import Count, FileFormat, Length, Share
from server.run_directory.schema import OnTheSame, check_format

_FILE = "privacy.json"


class StoredAttack(FileFormat):
    """What one attack found out of a group of images."""

    auc: Share
    interval: Annotated[list[Share], Field(min_length=2, max_length=2)]
    tpr: dict[str, Share | None]


class StoredGroup(FileFormat):
    """Images that the model was trained on, and as many others."""

    what: str
    images: Count
    n: Annotated[Count, Field(ge=1)]
    members: OnTheSame
    others: OnTheSame
    auc: Share
    attacks: Annotated[dict[str, StoredAttack], Field(min_length=1)]


class StoredShadows(FileFormat):
    """How the shadow models were trained."""

    count: Annotated[Count, Field(ge=1)]
    images: Count
    epochs: Count


class Privacy(FileFormat):
    """``privacy.json``."""

    round: Count
    sha256: str
    examples: Count
    attack: str
    norm: Norm
    epsilon: Length = Field(alias="epsilon-255")
    shadows: StoredShadows | None
    groups: Annotated[dict[str, StoredGroup], Field(min_length=1)]
    notes: list[str]


def write_privacy(run_dir: Path, record: dict[str, Any]) -> Path:
    """Replace the file of a run; return its path."""
    path = run_dir / _FILE
    replace_json(path, record)
    return path


def read_privacy(run_dir: Path) -> dict[str, Any]:
    """Return what the file holds; nothing where ``fedshield privacy`` has not looked at the run.

    Raises:
        FedShieldError: it is damaged.
    """
    path = run_dir / _FILE
    if not path.exists():
        return {}
    content: dict[str, Any] = read_json(path, f"remove it, or run fedshield privacy {run_dir} again")
    check_format(content, Privacy, str(path))
    return content
