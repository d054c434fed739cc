"""The figures of a run that count, finished or not, and how such are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.own import is_own
from server.checkpoint import chosen
from server.stored import read_evaluations, read_metrics, read_summary

NO_ATTACK = "no attack was run: robust accuracy was not measured"
OF_THE_PLACE = ("results.", "data.root")  # keys that say where a run lies, and nothing of what it computes


def read_figures(run_dir: Path) -> dict[str, Any]:
    """Return the last evaluation of the model that stands for a run, with its ``round``.

    That is what ``fedshield evaluate`` made of it, or else the final one, or, of an unfinished run, that of the last
    round that was evaluated; nothing where there is none.

    Args:
        run_dir: absolute.

    Raises:
        FedShieldError: a file is damaged.
    """
    summary = read_summary(run_dir)
    number = summary["evaluated-round"] if summary else (chosen(run_dir) or {}).get("round")
    # Those of a round before are of another model: that of an earlier end, or of a best one that was outdone.
    if evaluations := [record for record in read_evaluations(run_dir) if record["round"] == number]:
        return evaluations[-1]
    if summary.get("final"):
        return {**summary["final"], "round": number}
    evaluated = [line for line in read_metrics(run_dir) if line.get("evaluation")]
    return {**evaluated[-1]["evaluation"], "round": evaluated[-1]["round"]} if evaluated else {}


def dataset_name(config: Mapping[str, Any]) -> str:
    """Return what a flat configuration's dataset is called: an image folder by its own name."""
    return Path(config["data.root"]).name if config["data.name"] == "folder" else str(config["data.name"])


def training(config: Mapping[str, Any]) -> str:
    """Say by which method, and against which attack, the model of a flat configuration was trained."""
    loss, attack = config["loss.name"], config["attack.name"]
    if attack != "none":
        return f"adversarial training with {loss} against {attack} at epsilon {config['attack.epsilon-255']:g}/255"
    if is_own(loss):  # it may attack by itself
        return f"training with {loss}"
    return "natural (standard) training, without an attack"


def share(value: float | None) -> str:
    """``54.2``, in per cent, or a dash."""
    return "–" if value is None else f"{100 * value:.1f}"


def bracket(interval: Sequence[float]) -> str:
    """``[51.1, 57.3]``, in per cent."""
    low, high = interval
    return f"[{100 * low:.1f}, {100 * high:.1f}]"
