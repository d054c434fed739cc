"""``fedshield list``: what can be chosen by name, from the tables in which it is looked up, a line about each.

Names come from ``common.config``, which does not import torch; what is said of them from docstrings, headers of files
and, where there is neither, from here.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from common.attacks.threat import FAMILIES
from common.config.schema import RunConfig
from simulations.shipped import PRESETS, SWEEPS, names_in

Named = dict[str, str]  # name -> what it is, in a line


@dataclass(frozen=True)
class Kind:
    """Things of a kind.

    Attributes:
        names: all of them, without importing torch.
        describe: says what each is.
        use: how one is chosen.
    """

    names: Callable[[], Iterable[str]]
    describe: Callable[[], Named]
    use: str


def _key(key: str) -> Callable[[], list[str]]:
    """Return what looks up the values that a key allows."""

    def names() -> list[str]:
        schema = RunConfig.model_json_schema(by_alias=True)
        table, name = key.split(".")
        place = schema["$defs"][schema["properties"][table]["$ref"].rsplit("/", 1)[-1]]
        return [str(value) for value in place["properties"][name]["enum"]]

    return names


def _headers(folder: Path) -> Callable[[], Named]:
    """Return what reads the sentence with which each file of a folder begins."""

    def describe() -> Named:
        found = {}
        for name in names_in(folder):
            lines = (folder / f"{name}.toml").read_text("utf-8").splitlines()
            end = next(place for place, line in enumerate(lines) if line.strip("# ") == "")
            found[name] = " ".join(line.strip("# ") for line in lines[:end])
        return found

    return describe


def _documented(table: Mapping[str, object]) -> Named:
    return {name: first_paragraph(each.__doc__) for name, each in table.items()}


def first_paragraph(text: str | None) -> str:
    """Return the first paragraph of a docstring in one line, without its marks."""
    return " ".join((text or "").strip().split("\n\n")[0].replace("``", "").split())


_OTHERS: Named = {
    "torchvision:NAME": "a classifier of torchvision, as in torchvision:mobilenet_v3_small",
    "FILE.py:NAME": "your own: docs/own.md",
}
_STRATEGIES: Named = {
    "fedavg": "the mean of the replies, weighted by their images (McMahan et al. 2017, arXiv 1602.05629)",
    "fedavgm": "FedAvg with momentum of the server (Hsu et al. 2019, arXiv 1909.06335)",
    "fedadagrad": "Adagrad at the server (Reddi et al. 2021, arXiv 2003.00295)",
    "fedadam": "Adam at the server (Reddi et al. 2021, arXiv 2003.00295)",
    "fedyogi": "Yogi at the server (Reddi et al. 2021, arXiv 2003.00295)",
    "qfedavg": "clients with a high loss count more (Li et al. 2020, arXiv 1905.10497)",
    "krum": "the reply nearest to its neighbors (Blanchard et al. 2017, arXiv 1703.02757)",
    "multi-krum": "the mean of the replies nearest to their neighbors (Blanchard et al. 2017, arXiv 1703.02757)",
    "bulyan": "replies that Krum chooses, then a trimmed mean of each weight (El Mhamdi et al. 2018, arXiv 1802.07927)",
    "trimmed-mean": "each weight without its smallest and largest values (Yin et al. 2018, arXiv 1803.01498)",
    "median": "the median of each weight (Yin et al. 2018, arXiv 1803.01498)",
    "geometric-median": "the point nearest to all replies together (Pillutla et al. 2022, arXiv 1912.13445)",
    "centered-clipping": "the mean of updates clipped around the last one (Karimireddy et al. 2021, arXiv 2012.10333)",
    "fltrust": "replies count as far as they agree with the server's own update (Cao et al. 2021, arXiv 2012.13995)",
    "fedgreed": "the replies that do best on the server's images (Kritharakis et al. 2025, arXiv 2508.18060)",
}


def _models() -> Named:
    from common.models.networks import MODELS

    return {**_documented(MODELS), **_OTHERS}


def _attacks() -> Named:
    from common.attacks.library import ATTACKS, AUTOATTACK

    parts = f"{', '.join(AUTOATTACK)} one after the other; parameter-free (Croce and Hein 2020, arXiv 2003.01690)"
    own = {"FILE.py:NAME": _OTHERS["FILE.py:NAME"]}
    fgsm = "one step along the sign of the gradient (Goodfellow et al. 2015, arXiv 1412.6572)"
    found = {**_documented(ATTACKS), "fgsm": fgsm, "autoattack": parts, **own}
    return {name: found[name] for name in (*FAMILIES, *own)}


def _losses() -> Named:
    from common.training.losses import LOSSES

    return {**_documented(LOSSES), **_OTHERS}


def _methods() -> Named:
    from common.methods.library import METHODS

    fedavg = "the local loss alone, and the mean of the replies (McMahan et al. 2017, arXiv 1602.05629)"
    return {**_documented(METHODS), "fedavg": fedavg, **_OTHERS}


def _strategies() -> Named:
    return {**_STRATEGIES, **_OTHERS}


def _datasets() -> Named:
    from common.data.downloads import PUBLISHED

    found = {"shapes10": "generated images of ten shapes, with a robust and a fragile cue; nothing to download"}
    for name, dataset in PUBLISHED.items():
        found[name] = (
            f"{dataset.extent.classes} classes; downloaded into data.root where it is missing ({dataset.megabytes} MB)"
        )
    found["tiny-imagenet"] = "200 classes of ImageNet, 64×64 pixels; downloaded into data.root where it is missing"
    found["hf:NAME"] = "a dataset of the Hugging Face Hub, or saved as data.root/NAME: docs/data.md"
    found["medmnist:NAME"] = "medical images, as in medmnist:pathmnist; needs the extra medmnist"
    found["folder"] = "your own images: data.root/train/CLASS/* and data.root/test/CLASS/*"
    found["split"] = "what fedshield split-data made of another one, a directory for each party"
    return found


def _activations() -> Named:
    from common.models.activations import ACTIVATIONS

    return {name: first_paragraph(each.make.__doc__) for name, each in ACTIVATIONS.items()}


KINDS: dict[str, Kind] = {
    "presets": Kind(lambda: names_in(PRESETS), _headers(PRESETS), "fedshield run NAME"),
    "studies": Kind(lambda: names_in(SWEEPS), _headers(SWEEPS), "fedshield sweep NAME"),
    "models": Kind(_key("model.name"), _models, "--set model.name=NAME"),
    "attacks": Kind(
        lambda: [*FAMILIES, "FILE.py:NAME"],
        _attacks,
        "fedshield evaluate RUN_DIR --attacks NAME,NAME-STEPS; in training, --set attack.name=NAME takes none, mixture "
        "and some of these",
    ),
    "losses": Kind(_key("loss.name"), _losses, "--set loss.name=NAME"),
    "methods": Kind(_key("method.name"), _methods, "--set method.name=NAME"),
    "strategies": Kind(_key("strategy.name"), _strategies, "--set strategy.name=NAME"),
    "datasets": Kind(_key("data.name"), _datasets, "--set data.name=NAME"),
    "activations": Kind(_key("model.activation"), _activations, "--set model.activation=NAME"),
}


def described(kind: str) -> Named:
    """Return what there is of a kind, in its order, with a line about each."""
    found = KINDS[kind].describe()
    return {name: found[name] for name in KINDS[kind].names()}
