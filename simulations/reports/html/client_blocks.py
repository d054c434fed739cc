"""A run's clients: what they have, what they did, and which of their replies were not used."""

from collections.abc import Sequence
from statistics import fmean

from common.evaluation.personal import tell_personal
from simulations.reports.accuracy import Record, share
from simulations.reports.figures.run_figures import partition_figure
from simulations.reports.html.evaluation_blocks import measure
from simulations.reports.html.page import Block, Table, charts


def clients(metrics: Sequence[Record], partition: Record, final: Record) -> list[Block]:
    """Return a row for each client; nothing where there is no federation.

    Args:
        metrics: lines of ``metrics.jsonl``.
        partition: ``partition.json``.
        final: the evaluation whose accuracies are given for each client.
    """
    if not partition:
        return []
    shards, classes = partition["clients"], partition["classes"]
    accuracies = final.get("per-client", {})
    header = [
        *("client", "most frequent classes", "images", "rounds", "loss, last", "seconds, mean", "left out"),
        *(f"{measure(label)}, %" for label in accuracies),
    ]
    rows = []
    for client, counts in enumerate(shards):
        own = [line["clients"][str(client)] for line in metrics if str(client) in line.get("clients", {})]
        left = sum(str(client) in line.get("refused", {}) for line in metrics)
        largest = sorted(range(len(counts)), key=lambda place: -counts[place])[:2]
        rows.append(
            [
                str(client),
                ", ".join(classes[place] for place in largest if counts[place]),
                f"{sum(counts):,}",
                str(len(own)),
                f"{own[-1]['loss']:.3f}" if own else "–",
                f"{fmean(record['seconds'] for record in own):.1f}" if own else "–",
                str(left),
                *(share(rates[client]) for rates in accuracies.values()),
            ]
        )
    notes = [
        "accuracy: on the test images of a client's classes, each weighted as in its own data; always naming the most "
        "frequent of them gives the share of that class in its own images"
    ]
    return [Table(header, rows, 2, notes if accuracies else [])]


def own_models(final: Record) -> list[Block]:
    """Return the accuracy of each client's own model, and of the global one beside it; nothing where there is none."""
    if not (found := final.get("personal")):
        return []
    rows = [
        [
            str(own["client"]),
            f"{own['n']:,}",
            *(share(each[key]) for key in ("natural", "robust") for each in (own, own["global"])),
        ]
        for own in found["clients"]
    ]
    header = ["client", "n", "natural, own", "natural, global", "robust, own", "robust, global"]
    return [Table(header, rows, 1, tell_personal(found), title="Models of the clients' own, accuracy in %")]


def refusals(metrics: Sequence[Record]) -> list[Block]:
    """Return the replies that were refused or shortened, and the clients that ran again, with the reasons."""
    rows = [
        [str(line["round"]), client, what, reason]
        for line in metrics
        for key, what in (("refused", "left out"), ("shortened", "statistics shortened"), ("retried", "ran again"))
        for client, reason in line.get(key, {}).items()
    ]
    return (
        [Table(["round", "client", "", "reason"], rows, 4, title="Rejected replies and second turns")] if rows else []
    )


def shared_slice(partition: Record) -> list[Block]:
    """Return how near what is shared brings the clients; nothing where nothing is, or where that is not known."""
    if not (alignment := partition.get("alignment")):
        return []
    names = {
        "labels": "classes: mean total variation between two clients",
        "features": "features: mean distance of a client to all of them, in distances between two classes",
    }
    rows = [
        [meaning, f"{alignment[name]['before']:.2f}", f"{alignment[name]['after']:.2f}"]
        for name, meaning in names.items()
        if name in alignment
    ]
    kind = partition.get("shared-kind", "images")
    title = f"What is shared: {sum(partition['shared']):,} images to every client (sharing.kind = {kind})"
    return [Table(["distance", "without", "with what is shared"], rows, 1, title=title)]


def labels(partition: Record) -> list[Block]:
    """Return the classes of everybody's training images."""
    return charts(partition_figure(partition)) if partition else []
