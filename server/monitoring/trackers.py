"""Experiment trackers. Each is imported when a run asks for it, and continues the same record when a run is resumed."""

import logging
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.config.schema import RunConfig
from common.files import read_json
from common.words import markdown
from server.run_directory.writer import RunDir

_PROJECT = "fedshield"
_IDENTITIES = "trackers.json"


def figures(record: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tracker draws of a line of ``metrics.jsonl``: name -> value, accuracies in [0, 1]."""
    points = {name: record[name] for name in ("loss", "seconds", "update-norm", "learning-rate") if name in record}
    if "privacy" in record:
        points["epsilon"] = record["privacy"]["epsilon"]
    if "clients" in record:
        points |= {"clients/answered": len(record["clients"]), "clients/refused": len(record["refused"])}
    for prefix, key in (("", "evaluation"), ("validation/", "validation")):
        points |= {prefix + name: value for name, value in accuracies(record.get(key)).items()}
    return {name: float(value) for name, value in points.items() if value is not None}


def accuracies(evaluation: Mapping[str, Any] | None) -> dict[str, float]:
    """Return natural accuracy and robust accuracy under each attack, ``worst`` among them where there is an attack."""
    if not evaluation:
        return {}
    robust = evaluation["robust"] and {**evaluation["robust"], "worst": evaluation["worst"]}
    return {
        "natural-accuracy": evaluation["natural"]["value"],
        **{f"robust-accuracy/{attack}": rate["value"] for attack, rate in robust.items()},
    }


def final_figures(summary: Mapping[str, Any]) -> dict[str, float]:
    """Return what a tracker keeps of ``summary.json``."""
    return {f"final/{name}": value for name, value in accuracies(summary["final"]).items()}


def _identity(run: RunDir, tracker: str, new: str | None = None) -> str | None:
    """Return a tracker's own name for this run, after setting it to ``new`` if given; None if there is none."""
    path = run.path / _IDENTITIES
    known = read_json(path, "remove it; the trackers then start again") if path.exists() else {}
    if new is not None:
        known[tracker] = new
        run.write_json(_IDENTITIES, known)
    return known.get(tracker)


class TensorBoardTracker:
    """Writes event files into ``tensorboard`` in the run directory."""

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        from torch.utils.tensorboard import SummaryWriter

        # What an interrupted run has written about rounds that it will repeat must be ignored.
        self._writer: Any = SummaryWriter(str(run.path / "tensorboard"), purge_step=run.completed_rounds + 1)
        rows = "\n".join(f"| {key} | {markdown(str(value))} |" for key, value in config.flat().items())
        self._writer.add_text("configuration", f"| key | value |\n|---|---|\n{rows}", run.completed_rounds)
        self._last = run.completed_rounds

    def after_round(self, record: Mapping[str, Any]) -> None:
        """Write a point of each curve."""
        self._last = record["round"]
        self._write(figures(record))

    def after_run(self, summary: Mapping[str, Any]) -> None:
        """Write the final figures at the last round."""
        self._write(final_figures(summary))

    def _write(self, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, self._last)
        self._writer.flush()

    def close(self, finished: bool) -> None:
        """Close the file."""
        self._writer.close()


class MlflowTracker:
    """Logs to ``MLFLOW_TRACKING_URI``, or else into ``mlflow.db`` in ``results.dir``."""

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # a round should not wait for minutes
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
        from mlflow import MlflowClient
        from mlflow.entities import Param

        logging.getLogger("mlflow").setLevel(logging.WARNING)
        folder = run.path.parent
        remote = os.environ.get("MLFLOW_TRACKING_URI")
        self._client: Any = MlflowClient(tracking_uri=remote or f"sqlite:///{folder / 'mlflow.db'}")
        self._run = _identity(run, "mlflow")
        if self._run is None:
            experiment = self._experiment(None if remote else folder / "mlflow-artifacts")
            self._run = str(self._client.create_run(experiment, run_name=run.path.name).info.run_id)
            _identity(run, "mlflow", self._run)
            self._client.log_batch(self._run, params=[Param(key, str(value)) for key, value in config.flat().items()])
        else:
            self._client.update_run(self._run, status="RUNNING")
        self._last = run.completed_rounds

    def _experiment(self, artifacts: Path | None) -> str:
        experiment = self._client.get_experiment_by_name(_PROJECT)
        place = None if artifacts is None else artifacts.as_uri()
        return str(experiment.experiment_id if experiment else self._client.create_experiment(_PROJECT, place))

    def after_round(self, record: Mapping[str, Any]) -> None:
        """Log a point of each metric."""
        self._last = record["round"]
        self._log(figures(record))

    def after_run(self, summary: Mapping[str, Any]) -> None:
        """Log the final figures at the last round."""
        self._log(final_figures(summary))

    def _log(self, values: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(self._run, metrics=[Metric(name, v, now, self._last) for name, v in values.items()])

    def close(self, finished: bool) -> None:
        """Tell how the run has ended."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")


class WandbTracker:
    """Logs to Weights & Biases, or, with ``WANDB_MODE=offline``, into ``wandb`` in ``results.dir``."""

    def __init__(self, config: RunConfig, run: RunDir) -> None:
        import wandb

        identity = _identity(run, "wandb") or _identity(run, "wandb", uuid.uuid4().hex[:12])
        self._run: Any = wandb.init(
            project=_PROJECT,
            id=identity,
            name=run.path.name,
            dir=str(run.path.parent),
            config=dict(config.flat()),
            resume="allow",
            # It would prompt for a key in the middle of the live view.
            settings=wandb.Settings(silent=True, console="off", login_timeout=1, init_timeout=30),
        )

    def after_round(self, record: Mapping[str, Any]) -> None:
        """Log a point of each chart."""
        self._run.log(figures(record), step=record["round"])

    def after_run(self, summary: Mapping[str, Any]) -> None:
        """Put the final figures into the run's summary."""
        self._run.summary.update(final_figures(summary))

    def close(self, finished: bool) -> None:
        """Send what is left, and tell how the run has ended."""
        self._run.finish(exit_code=0 if finished else 1)
