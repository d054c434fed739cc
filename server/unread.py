"""Settings without effect: keys that nobody reads where another key is as it is."""

import logging

from common.config.flat import Flat, default_config
from common.config.schema import RunConfig
from common.user_code import is_user_code

log = logging.getLogger("fedshield")

# key -> the key that decides whether it is read, and the values with which it is; a user's own code may read any.
_READ_WITH: dict[str, tuple[str, tuple[str, ...]]] = {
    "partition.alpha": ("partition.scheme", ("dirichlet", "inner-dirichlet")),
    "partition.classes-per-client": ("partition.scheme", ("pathological", "shards", "distribution")),
    "partition.sizes": ("partition.scheme", ("size", "inner-dirichlet")),
    "partition.sigma": ("partition.scheme", ("distribution",)),
    "partition.by": ("partition.scheme", ("natural",)),
    "sharing.noise": ("sharing.kind", ("noised",)),
    "sharing.average": ("sharing.kind", ("averaged",)),
    "sharing.per-class": ("sharing.kind", ("distilled",)),
    "sharing.steps": ("sharing.kind", ("distilled",)),
    "sharing.root": ("sharing.kind", ("other-dataset",)),
    "strategy.clip-radius": ("strategy.name", ("centered-clipping",)),
    "strategy.server-rate": ("strategy.name", ("fedavgm", "fedadagrad", "fedadam", "fedyogi")),
    "strategy.server-momentum": ("strategy.name", ("fedavgm", "fedadam", "fedyogi")),
    "strategy.server-tau": ("strategy.name", ("fedadagrad", "fedadam", "fedyogi")),
    "strategy.q": ("strategy.name", ("qfedavg",)),
    "method.prox-mu": ("method.name", ("fedprox",)),
    "method.dyn-alpha": ("method.name", ("feddyn", "feddynat")),
    "method.dynat-epochs": ("method.name", ("feddynat",)),
    "method.dynat-decay": ("method.name", ("feddynat",)),
    "method.dynat-every": ("method.name", ("feddynat",)),
    "method.moon-mu": ("method.name", ("moon",)),
    "method.moon-temperature": ("method.name", ("moon",)),
    "method.mix-share": ("method.name", ("mixfat",)),
    "method.dbfat-beta": ("method.name", ("dbfat",)),
    "method.sfat-alpha": ("method.name", ("sfat",)),
    "method.sfat-top": ("method.name", ("sfat",)),
    "method.head-epochs": ("method.name", ("fedrep",)),
    "method.ditto-lambda": ("method.name", ("ditto",)),
    "attack.mixture": ("attack.name", ("mixture",)),
    "attack.mixture-rate": ("attack.name", ("mixture",)),
    "loss.beta": ("loss.name", ("trades", "mart")),
    "loss.calfat-absent": ("loss.name", ("calfat",)),
    "loss.calfat-scale": ("loss.name", ("calfat",)),
    "loss.calfat-attack": ("loss.name", ("calfat",)),
    "loss.margin-tau": ("loss.name", ("logit-calibrated",)),
    "train.milestones": ("train.schedule", ("milestones",)),
    "train.average-decay": ("train.average", ("ema",)),
}
# Keys, or the beginning of keys -> what switches them off: a key and its value.
_OFF: dict[str, tuple[str, object]] = {
    "privacy.": ("privacy.noise-multiplier", 0),
    "byzantine.": ("byzantine.clients", 0),
    "diagnosis.": ("diagnosis.enabled", False),
    "repair.": ("repair.enabled", False),
    "train.average-start": ("train.average", "none"),
    "results.prometheus-host": ("results.prometheus-port", 0),
}
_OF_FILES = ("data.root", "data.image-size", "data.resize")
_OF_CLIENTS = ("partition.", "sharing.", "strategy.", "method.", "privacy.", "byzantine.", "repair.")
_NEVER_MEANT = ("privacy.", "byzantine.")  # of these; the others are in presets, which serve for both


def tell_unread(config: RunConfig, federated: bool = True) -> None:
    """Tell of each setting that differs from its default and has no effect.

    Args:
        config: of the run.
        federated: whether there are clients.
    """
    defaults, now = default_config(), config.flat()
    for key in [key for key in now if now[key] != defaults[key]]:
        if federated or not key.startswith(_OF_CLIENTS):
            why = _why_unread(key, now, config.repair.enabled)
        else:
            why = "there are no clients here" if key.startswith(_NEVER_MEANT) else ""
        if why:
            log.info("%s = %s has no effect: %s", key, now[key], why)


def _why_unread(key: str, now: Flat, repaired: bool) -> str:
    """Return why nobody reads a key of a flat configuration; empty where somebody does."""
    if key == "train.average-decay" and repaired:  # repair may take a mean later
        return ""
    if key in _READ_WITH:
        switch, values = _READ_WITH[key]
        if now[switch] not in values and not is_user_code(str(now[switch])):
            return f"{switch} = {now[switch]} does not read it"
    if key in _OF_FILES and now["data.name"] == "shapes10":
        return "data.name = shapes10 draws its images"
    if key == "partition.by" and not str(now["data.name"]).startswith("hf:"):
        return f"data.name = {now['data.name']} does not read it"
    for start, (switch, off) in _OFF.items():
        if key.startswith(start) and key != switch and now[switch] == off:
            return f"{switch} = {str(off).lower()}"
    return ""
