"""Objects of a script or a notebook as ``FILE.py:NAME``, which every process and every later command can read."""

import base64
import copy
import hashlib
import logging
import re
import sys
import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn

from common.errors import FedShieldError, explain_os_errors
from common.files import replace_file
from common.paths import cache_dir
from fedshield.sources import UnwritableError, source_of

log = logging.getLogger("fedshield")

_PICKLED = '''"""Written by fedshield: {what}, pickled, because {why}.

Nobody can read what it does before it runs. Only Python {python} can load it.
"""

import base64
import sys

import cloudpickle

if sys.version_info[:2] != {version}:
    raise ImportError("this object was pickled by Python {python}; use that, or write it into a file of your own")
_BYTES = base64.b85decode(
    b"""
{lines}
""".replace(b"\\n", b"")
)


{ending}
'''
_COPIES = '''def {name}():
    """Return the network, with the weights that it had."""
    return cloudpickle.loads(_BYTES)'''
_LOADED = "{name} = cloudpickle.loads(_BYTES)"


def tell_cluster(references: Iterable[str]) -> None:
    """Say what a Ray cluster needs for objects among the user's code."""
    if written := [reference for reference in references if Path(reference).is_relative_to(_folder())]:
        log.warning(
            "%s: every machine of the Ray cluster needs it at this path; set FEDSHIELD_CACHE to a folder that all of "
            "them have",
            written[0].rpartition(":")[0],
        )


def _folder() -> Path:
    return cache_dir() / "given"


def reference_to(key: str, value: Any) -> str:
    """Return ``FILE.py:NAME`` of an object that was given for a key; a text stays as it is.

    The file is in the cache, and a run keeps a copy of it. It is the object's source where that can be told, or else a
    pickle; a line of the log says why. A network that is an object already starts each run with the weights it has.

    Args:
        key: of the configuration.
        value: a function, a class, a callable object or an ``nn.Module``.

    Raises:
        FedShieldError: it is none of these, or cannot be sent to another process.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, Path):
        return str(value)
    if not callable(value):
        raise FedShieldError(
            f"{key} = {value!r:.80}: give a name, FILE.py:NAME, or a function or class; not {type(value).__name__}"
        )
    if isinstance(value, nn.Module) and key != "model.name":
        raise FedShieldError(
            f"{key}: {type(value).__name__} is a network, or a part of one; give a function or class (docs/own.md)"
        )
    name, text = _written(key, value)
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    file = _folder() / digest / f"{name}.py"
    with explain_os_errors(file):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, text.encode())
    return f"{file}:{name}"


def _written(key: str, value: Any) -> tuple[str, str]:
    name = getattr(value, "__name__", type(value).__name__)
    name = name if re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) else "given"
    if isinstance(value, nn.Module):
        return "network", _pickle(key, "network", value, "it is an object with weights", _COPIES)
    try:
        return name, source_of(value, name)
    except UnwritableError as reason:
        try:
            text = _pickle(key, name, value, str(reason), _LOADED)
        except FedShieldError:
            if not reason.text:
                raise
            log.warning("%s = %s: only its source is kept, and cannot be checked, because %s", key, name, reason)
            return name, reason.text
        log.info(
            "%s = %s: kept as a pickle, which only Python %d.%d can load and nobody can read: its source cannot be "
            "written to a file, because %s",
            *(key, name, *sys.version_info[:2], reason),
        )
        return name, text


def _pickle(key: str, name: str, value: Any, why: str, ending: str) -> str:
    from fedshield.pickles import pickled

    try:
        content = pickled(copy.deepcopy(value).cpu() if isinstance(value, nn.Module) else value)
    except Exception as error:  # whatever the objects inside raise
        what = f"{type(error).__name__}: {error}".split("\n")[0]
        raise FedShieldError(
            f"{key} = {name}: cannot be sent to another process ({what}); write it into a file, and give FILE.py:NAME"
        ) from error
    return _PICKLED.format(
        what=name,
        why=why,
        python="{}.{}".format(*sys.version_info[:2]),
        version=tuple(sys.version_info[:2]),
        lines="\n".join(textwrap.wrap(base64.b85encode(content).decode(), 100)),
        ending=ending.format(name=name),
    )
