"""``fedshield doctor``: what this machine has, how to get what is missing, and what the configured model costs."""

import importlib.util
import os
import platform
import shutil
from importlib.metadata import version
from pathlib import Path

import torch

from common.config.schema import RunConfig
from common.data.datasets import data_key, is_at_hand
from common.data.downloads import PUBLISHED
from common.data.image_folders import is_litter
from common.errors import FedShieldError
from common.factory import make_model, server_data
from common.machine import available_cores
from common.models.flops import model_cost
from common.paths import ROOT, cache_dir, to_install, whole_path
from server.run_directory.environment import PACKAGES, installed, processor
from simulations.estimates.dry_run import flop_text
from simulations.estimates.work import adversarial_passes
from simulations.studies.trial import count_classes
from simulations.terminal.console import Terminal

_NEEDED_GB = 2.0
_COMPARED = "3.5.1", "3.3.0"  # torchattacks: that of the docs, and those that give the same (nightly/test_wheel.py)
_USUAL_CLASSES = 10  # as shapes10 has


def examine(config: RunConfig, console: Terminal) -> list[str]:
    """Print one line for each finding; return those for which a run with this configuration would not work here."""
    data, classes = _data(config)
    findings = [
        *_packages(),
        _gpu(),
        _ray(),
        *data,
        _disk("dataset cache", cache_dir()),
        _disk("results.dir", whole_path(config.results.dir)),
        _model(config, classes),
    ]
    console.print(f"{processor()}, {available_cores()} cores, Python {platform.python_version()}")
    for grade, text in findings:
        console.print(f"{grade:>7}  {text}")
    return [text for grade, text in findings if grade == "missing"]


Finding = tuple[str, str]


def _model(config: RunConfig, classes: int) -> Finding:
    """Print the size of the configured network, and the FLOPs of a forward pass and of training on one image."""
    size = config.data.side
    try:
        cost = model_cost(make_model(config, classes), size)
    except FedShieldError as error:
        return "missing", str(error)
    model, passes = config.model, adversarial_passes(config)
    training = f"{flop_text(passes * cost.flops)} an image" if passes is not None else "cannot be predicted"
    if config.federation.adversarial_clients < 1:
        training += " of a client that trains adversarially"
    strides = "down-sampling" if model.downsample else "no down-sampling"
    return "ok", (
        f"model {model.name}, width {model.width}, {model.stem} stem, {strides}, {model.activation}, "
        f"{classes} classes, {size}×{size} pixels: {_count(cost.parameters)} parameters, "
        f"{flop_text(cost.flops)} a forward pass (a multiply-add is two); "
        f"training by {config.loss.name}{_method(config)}, {_attack(config)}: {training}"
    )


def _method(config: RunConfig) -> str:
    return "" if config.method.name == "fedavg" else f", method {config.method.name}"


def _attack(config: RunConfig) -> str:
    attack = config.attack
    steps = attack.name in {"bim", "pgd", "cw"}
    return f"attack {attack.name}" + (f"-{attack.steps}" if steps else "")


def _count(number: int) -> str:
    return f"{number / 1e6:.4g} million" if number >= 1e6 else f"{number:,}"


def _packages() -> list[Finding]:
    return [_package(name) for name in PACKAGES]


def _package(name: str) -> Finding:
    found = installed(name)
    if found and name == "torchattacks" and found not in _COMPARED:
        return (
            "note",
            f"{name} {found}: was not compared with {_COMPARED[0]}, by which the figures in the docs were made",
        )
    if found:
        return "ok", f"{name} {found}"
    if name == "fedshield":  # which needs no installation where its folder is on Python's path
        return "note", f"fedshield is not installed; it runs from its source in {ROOT}"
    return "missing", f"{name} is not installed; run: {to_install()}"


def _gpu() -> Finding:
    if torch.cuda.is_available():
        return "ok", f"GPU: {', '.join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))}"
    if torch.backends.mps.is_available():
        return "note", "Apple's GPU is used where FEDSHIELD_DEVICE=mps is set; nobody has tried it yet"
    return "note", "no GPU that torch can use: runs compute on the CPU; the preset cpu-cifar10 is made for that"


def _ray() -> Finding:
    if importlib.util.find_spec("ray") is None:
        return "note", f"Ray is not installed: --engine ray and flwr run will not work; run: {to_install()}"
    return "ok", f"ray {version('ray')}"


def _data(config: RunConfig) -> tuple[list[Finding], int]:
    """Return findings about the configured data and what else is there, and its number of classes."""
    name, root = config.data.name, whole_path(config.data.root)
    if name in {"folder", "split", "tiny-imagenet"} or ":" in name:
        try:
            if name != "split" and not is_at_hand(name, config.data.root, config.data.image_size):
                note = f"{name} is not in {root}: it is downloaded when a run first asks for it"
                unknown = "; 10 classes are assumed until then" if name.startswith("hf:") else ""
                return [("note", note + unknown)], count_classes(config)
            classes = _on_this_machine(config)
        except FedShieldError as error:
            return [("missing", f"data.name = {name}: {error}")], _USUAL_CLASSES
        return [("ok", f"data.name = {name}: {root}, {classes} classes")], classes
    found = [("ok", "shapes10 is generated, nothing to fetch")]
    for known in sorted({"cifar10", name} & PUBLISHED.keys()):
        dataset = PUBLISHED[known]
        if all((root / file).exists() for file in dataset.files):
            found.append(("ok", f"{known}: {root / dataset.files[0]}"))
        else:
            size = f"{dataset.megabytes} MB"
            found.append(("note", f"{known} is not in {root}: it is downloaded when a run first asks for it ({size})"))
    found_in = [path.parent for path in root.glob("*/train") if not is_litter(path.parent.name)]
    folders = sorted(folder for folder in found_in if (folder / "test").is_dir())
    found += [("ok", f"image folder: {folder} (data.name=folder data.root={folder})") for folder in folders]
    return found, count_classes(config)


def _on_this_machine(config: RunConfig) -> int:
    """Check that the user's files are there, as far as possible without decoding a folder; count their classes."""
    data = config.data
    if data.name == "split":
        return len(server_data(config).described_partition["classes"])
    data_key(data.name, data.root, data.image_size, data.resize)
    return count_classes(config)


def _disk(what: str, folder: Path) -> Finding:
    existing = next(path for path in (folder, *folder.parents) if os.path.exists(path))
    free = shutil.disk_usage(existing).free / 1e9
    if not os.access(existing, os.W_OK):
        return "missing", f"{what}: {existing} is not writable; change its permissions, or choose another place"
    if free < _NEEDED_GB:
        return "missing", f"{what}: {folder} has {free:.1f} GB free, {_NEEDED_GB:.0f} are needed; free some space"
    return "ok", f"{what}: {folder}, {free:.0f} GB free"
