"""Judges the rounds of a finished run again, from the signals that it has stored."""

from collections.abc import Iterator
from pathlib import Path

from common.errors import FedShieldError
from server.diagnosis.about import about_run
from server.diagnosis.diagnosis import Diagnosis
from server.diagnosis.judge import changes, diagnose, stored
from server.repair.preflight import obstacles
from server.repair.remedies import AT_ONCE
from server.repair.rounds import limits_of, treat_line
from server.repair.treatment import Treatment
from server.run_directory.reader import (
    odd_rounds,
    parse_stored,
    read_config,
    read_described_partition,
    read_kind,
    read_metrics,
)


def replay(run_dir: Path) -> Iterator[str]:
    """Yield a line for each round of a run: its troubles, with the evidence where one begins or becomes severe.

    Also what repair does about them; of a run without repair, what it would do. Such a run has gone on with its
    troubles, so after the first action the others are not what would really have followed.

    Args:
        run_dir: absolute.

    Raises:
        FedShieldError: there is no run, its files are damaged, or it has no signals.
    """
    config, kind = parse_stored(run_dir, read_config(run_dir)), read_kind(run_dir)
    metrics = read_metrics(run_dir)
    if not any("signals" in line for line in metrics):
        raise FedShieldError(
            f"{run_dir / 'metrics.jsonl'}: has no signals to judge; a run stores them with diagnosis.enabled=true"
        )
    about = about_run(config, kind, read_described_partition(run_dir))
    verb, limits, treatment = "does" if config.repair.enabled else "would do", limits_of(config), Treatment()
    stands = [] if config.repair.enabled else obstacles(config, kind)
    if stands:
        yield f"Repair could do nothing in this run: {stands[0]}"
    if odd := odd_rounds(metrics, kind.unit):
        yield f"{odd}: what is told of these {kind.unit}s may be wrong"
    before: list[Diagnosis] = []
    others = []
    for count, line in enumerate(metrics, 1):
        first = treatment.first if config.repair.enabled else 1
        now = diagnose(metrics[:count], about, before, first) if "signals" in line else before
        told = "; ".join(f"{each.name} ({each.severity}, since {kind.unit} {each.since})" for each in now)
        lacks = "" if "signals" in line else "no signals"
        yield f"{kind.unit} {line['round']}  {lacks or told or 'no trouble'}"
        yield from (f"    {found.name} {what}: {found.evidence}" for what, found in changes(before, now))
        before = now
        treatment, actions = treat_line(treatment, line, now, limits)
        for action in () if stands else actions:
            follows = count < len(metrics) or action.name in AT_ONCE
            yield f"    repair {verb if follows else 'would do next'} ({action.name}): {action.told}"
        if {(each.name, each.severity) for each in stored(line)} != {(each.name, each.severity) for each in now}:
            others.append(str(line["round"]))
    if others:
        yield f"During the run, other troubles were told in {kind.unit} {', '.join(others)}: by other rules."
