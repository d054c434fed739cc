"""From the run directories of a study to its three CSV files; see ``simulations.study_directory``."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

from common.attacks.threat import radius
from common.errors import FedShieldError, explain_os_errors
from common.files import read_json, read_json_lines, replace_file
from common.paths import ROOT, source
from server.run_directory.privacy import read_privacy
from simulations.reports.accuracy import AccuracyTable, chance
from simulations.studies.study import Point, Study
from simulations.study_directory import ADDED, AUCS, DIVIDED, EPSILON, MEGABYTES, WORST_CLIENT, write_csv

Planned = Sequence[Sequence[str]]  # the attacks of each point
HINT = "delete the run directory, and run the sweep again"
_RARE = {*AUCS, EPSILON}  # columns only where a run has them


def code_version() -> str:
    """Return a digest of the sources that make the numbers; the same on every machine with the same sources."""
    digest = sha256()
    rooms = [path for room in ("client", "common", "server") for path in (ROOT / room).rglob("*.py")]
    # In the folder `simulations`, only this trains.
    for path in sorted([*rooms, *(ROOT / "simulations").glob("centralized.py")]):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + source(path))
    return digest.hexdigest()[:12]


def note_code(runs: Path, name: str, *, begun: bool = False) -> None:
    """Note with which sources a run is started, after those that it was ``begun`` with."""
    path = runs / f"{name}.code"
    before = _versions(path) if begun else []
    replace_file(path, "".join(f"{version}\n" for version in [*before, code_version()]).encode())


def is_finished(study: Study, run: Path) -> bool:
    """Return whether a point's directory holds its result."""
    return (run / ("partition.json" if study.command == "partitions" else "summary.json")).exists()


def gather(study: Study, points: Sequence[Point], directory: Path) -> dict[str, dict[str, Any]]:
    """Write the CSV files again; return the rows of the finished runs by run."""
    runs = directory / "runs"
    done = [point for point in points if is_finished(study, runs / point.name)]
    made = _divided if study.command == "partitions" else _trained
    names = {point.name for point in done}
    rows = [made(point, runs) if point.name in names else _lacking(point, runs) for point in points]
    keys = list(points[0].varied)
    if study.command == "partitions":
        write_csv(directory / "results.csv", [DIVIDED[0], *keys, *DIVIDED[1:], *_added(rows)], rows)
    else:
        _write_results(directory, keys, rows, [point.config.final_attacks() for point in points])
        _write_rounds(directory, keys, done, [point.config.evaluate.attacks for point in points])
    federated = study.command != "centralized"
    labels = [row for point in done for row in _labels(point, runs)] if federated else []
    write_csv(directory / "labels.csv", ["point", *keys, "seed", "client", "class", "images"], labels)
    return {row["run"]: row for row in rows if "why" not in row}


def note_failure(runs: Path, name: str, complaint: str) -> None:
    """Store why a run has failed, for the tables."""
    replace_file(_failure(runs, name), complaint.encode(errors="backslashreplace"))


def forget_failure(runs: Path, name: str) -> None:
    """Remove why a run has failed, when it is started again."""
    _failure(runs, name).unlink(missing_ok=True)


def _failure(runs: Path, name: str) -> Path:
    return runs / f"{name}.failed"


def _lacking(point: Point, runs: Path) -> dict[str, Any]:
    """Return the row of a run without figures."""
    path = _failure(runs, point.name)
    with explain_os_errors(path):
        failed = path.read_text("utf-8", "replace").strip() if path.exists() else ""
    begun = "not finished" if (runs / point.name).exists() else "not run yet"
    return {**_head(point), "attacks": [], "why": f"failed: {failed}" if failed else begun}


def _images(path: Path) -> dict[str, int]:
    """Return how many images a run used, of how many, as far as its ``partition.json`` tells."""
    if not path.exists():
        return {}
    with _reading(path):
        described = read_json(path, HINT)
        tests = {"test-images": sum(described["test"])} if "test" in described else {}
        return {**{key: described[key] for key in ("used", "available") if key in described}, **tests}


def _write_results(directory: Path, keys: list[str], rows: list[dict[str, Any]], planned: Planned) -> None:
    columns = ["run", *keys, "seed", "rounds", "n", "natural", *_attacks(rows, planned), "worst", "seconds"]
    write_csv(directory / "results.csv", [*columns, "code", "processor", "threads", *_added(rows)], rows)


def _added(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [column for column in ADDED if column not in _RARE or any(column in row for row in rows)]


def _write_rounds(directory: Path, keys: list[str], done: Sequence[Point], planned: Planned) -> None:
    rows = [row for point in done for row in _rounds(point, directory / "runs")]
    columns = ["run", *keys, "seed", "round", "n", "natural", *_attacks(rows, planned), "loss", "seconds"]
    write_csv(directory / "rounds.csv", columns, rows)


def _attacks(rows: Sequence[dict[str, Any]], planned: Planned) -> list[str]:
    """Return the attacks that were measured, in the study's order, whichever of its runs are finished."""
    order = list(dict.fromkeys(label for labels in planned for label in labels))
    measured = {label for row in rows for label in row["attacks"]}
    return sorted(measured, key=lambda label: (order.index(label) if label in order else len(order), label))


def _head(point: Point) -> dict[str, Any]:
    return {"run": point.name, **point.varied, "seed": point.seed}


def _rates(evaluation: dict[str, Any] | None) -> dict[str, Any]:
    """Return the figures of an evaluation, and under ``attacks`` the labels of its attacks."""
    if not evaluation:
        return {"attacks": []}
    accuracy = AccuracyTable.of(evaluation)
    rates = {label: row.value for label, row in accuracy.whole().items()}
    return {"n": accuracy.n, **rates, "attacks": accuracy.attacks(), "chance": chance(evaluation)}


def _code(point: Point, runs: Path) -> str:
    return "+".join(dict.fromkeys(_versions(runs / f"{point.name}.code")))


def _versions(path: Path) -> list[str]:
    """Return the digests of the sources with which a run was started, in order."""
    with explain_os_errors(path):
        return path.read_text("utf-8", "replace").split() if path.exists() else []


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of unexpected content into one line."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise FedShieldError(f"{path}: damaged; {HINT}") from error


def _trained(point: Point, runs: Path) -> dict[str, Any]:
    with _reading(path := runs / point.name / "summary.json"):
        summary = read_json(path, HINT)
        final, later = _known_final(path.parent, summary["final"])
        figures = {**_rates(final), "rounds": summary["rounds"], "seconds": f"{summary['seconds']:.1f}"}
        figures |= _worst_client(final or {}) | _megabytes(path.parent / "metrics.jsonl")
        figures |= _areas(path.parent, summary.get("evaluated-round"))
        figures |= {EPSILON: spent["epsilon"]} if (spent := summary.get("privacy")) else {}
    with _reading(path := runs / point.name / "environment.json"):
        found = read_json(path, HINT)
        machine = {
            "processor": found["processor"] if found["device"] == "cpu" else found["device"],
            "threads": found["threads"],
        }
    images = _images(runs / point.name / "partition.json")
    attack = point.config.attack
    more = {"later-attacks": " ".join(later), "threat": radius(attack.epsilon_255, attack.norm)}
    return {**_head(point), **figures, "code": _code(point, runs), **machine, **images, **more}


def _worst_client(final: dict[str, Any]) -> dict[str, float]:
    """Return the lowest figures of a client, as far as the evaluation has figures of clients."""
    of_clients = final.get("per-client", {})
    found = {
        column: [value for value in of_clients.get(rate, []) if value is not None]
        for column, rate in zip(WORST_CLIENT, ("natural", "worst"), strict=True)
    }
    return {column: min(values) for column, values in found.items() if values}


def _areas(run_dir: Path, final_round: int | None) -> dict[str, float]:
    """Return the AUCs of ``fedshield privacy``, if it has attacked the final model."""
    record = read_privacy(run_dir)
    groups = record.get("groups", {}) if record.get("round") == final_round else {}
    named = zip(AUCS, ("pool", "clients"), strict=True)
    return {column: groups[name]["auc"] for column, name in named if name in groups}


def _megabytes(metrics: Path) -> dict[str, str]:
    """Return what the messages of all rounds held; nothing where a round has not noted it."""
    with _reading(metrics):
        rounds = read_json_lines(metrics)
        if any("bytes" not in record for record in rounds):
            return {}
        sums = [sum(record["bytes"][way] for record in rounds) / 10**6 for way in ("sent", "received")]
    return {column: f"{size:.2f}" for column, size in zip(MEGABYTES, sums, strict=True)}


def _known_final(run_dir: Path, final: dict[str, Any] | None) -> tuple[dict[str, Any] | None, Sequence[str]]:
    """Return a run's final evaluation with what is known of it now; see ``known_final``."""
    if not (run_dir / "evaluations.jsonl").exists():
        return final, ()
    from simulations.reports.headline import known_final  # imports torch

    return known_final(run_dir)


def _rounds(point: Point, runs: Path) -> list[dict[str, Any]]:
    with _reading(path := runs / point.name / "metrics.jsonl"):
        return [
            {**_head(point), **record, **_rates(record["evaluation"]), "seconds": f"{record['seconds']:.1f}"}
            for record in read_json_lines(path)
            if record["evaluation"]
        ]


def _labels(point: Point, runs: Path) -> list[dict[str, Any]]:
    path = runs / point.name / "partition.json"
    if not path.exists():  # there are no clients in centralized training
        return []
    head = {"point": point.label, **point.varied, "seed": point.seed}
    with _reading(path):
        described = read_json(path, HINT)
        return [
            {**head, "client": client, "class": name, "images": images}
            for client, counts in enumerate(described["clients"])
            for name, images in zip(described["classes"], counts, strict=True)
        ]


def _divided(point: Point, runs: Path) -> dict[str, Any]:
    with _reading(path := runs / point.name / "partition.json"):
        skew = _skew(read_json(path, HINT)["clients"])
    return {**_head(point), **skew, "code": _code(point, runs), **_images(path)}


def _skew(clients: list[list[int]]) -> dict[str, Any]:
    """Return how large and how skewed the clients' shards are."""
    sizes = [sum(counts) for counts in clients]
    whole = [sum(counts) / sum(sizes) for counts in zip(*clients, strict=True)]
    distances = [
        sum(abs(count / size - share) for count, share in zip(counts, whole, strict=True)) / 2
        for counts, size in zip(clients, sizes, strict=True)
        if size
    ]
    return {
        "clients": len(clients),
        "images": sum(sizes),
        "smallest": min(sizes),
        "largest": max(sizes),
        "classes": sum(sum(count > 0 for count in counts) for counts in clients) / len(clients),
        "distance": sum(distances) / len(distances),
    }
