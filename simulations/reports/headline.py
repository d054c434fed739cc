"""The headline figures of a run, finished or not, and how they are written."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.user_code import is_user_code
from server.run_directory.checkpoint import selected_checkpoint
from server.run_directory.reader import read_evaluations, read_metrics, read_summary

OF_THE_PLACE = ("results.", "data.root")  # keys that say where a run is, not what it computes


def read_figures(run_dir: Path) -> dict[str, Any]:
    """Return the fullest evaluation of a run's final model, with its ``round``.

    Of the final one and those that ``fedshield evaluate`` made of it, the fullest is that with the most test images, of
    these that with the most attacks, of these the last; one without an attack counts only where there is no other. What
    it lacks of the curve over epsilon and of the distortions comes from the fullest that has it, with its own ``n``;
    under ``others`` are the evaluations of the same model that are less full, which may have stronger attacks. Without
    any, the result is that of the last round which was evaluated; nothing if there is none.

    Args:
        run_dir: absolute.

    Raises:
        FedShieldError: a file is damaged.
    """
    summary = read_summary(run_dir)
    number = summary["evaluated-round"] if summary else (selected_checkpoint(run_dir) or {}).get("round")
    final = [{**summary["final"], "round": number}] if summary.get("final") else []
    # Those of a round before are of another model: that of an earlier end, or of a best one that was outdone.
    if found := final + [record for record in read_evaluations(run_dir) if record["round"] == number]:
        return _put_together(found)
    evaluated = [line for line in read_metrics(run_dir) if line["evaluation"]]
    return _put_together([{**line["evaluation"], "round": line["round"]} for line in evaluated[-1:]])


def last_round(metrics: Sequence[Mapping[str, Any]]) -> int:
    """Return how many rounds, or epochs, a run has done, from the lines of its ``metrics.jsonl``."""
    return max((line["round"] for line in metrics), default=0)


def _put_together(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the fullest of some evaluations, with what others alone have measured; see ``read_figures``."""
    if not found:
        return {}
    figures = dict(best := _fullest(found))
    for part in ("curve", "distortions"):
        if having := [record for record in found if record.get(part)]:
            source = best if best.get(part) else _fullest(having)
            figures |= {part: source[part], f"{part}-n": source["n"]}
    others = [record for record in found if record is not best]
    return {**figures, "others": others} if others else figures


def _fullest(found: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    last_first = reversed(found)  # max takes the first of equals
    return max(last_first, key=lambda record: (bool(record["robust"]), record["n"], len(record["robust"])))


def dataset_name(config: Mapping[str, Any]) -> str:
    """Return the name of a flat configuration's dataset: for an image folder, the folder's name."""
    return Path(config["data.root"]).name if config["data.name"] == "folder" else str(config["data.name"])


def training(config: Mapping[str, Any]) -> str:
    """Say by which method, and against which attack, the model of a flat configuration was trained."""
    loss, attack = config["loss.name"], config["attack.name"]
    if attack != "none":
        return f"adversarial training with {loss} against {attack} at epsilon {config['attack.epsilon-255']:g}/255"
    if is_user_code(loss):  # it may attack by itself
        return f"training with {loss}"
    return "natural (standard) training, without an attack"
