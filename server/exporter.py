"""The rounds of a running federation as Prometheus metrics, for those who watch it."""

from collections.abc import Callable, Mapping
from typing import Any

from common.errors import FedShieldError

Publish = Callable[[Mapping[str, Any]], None]


def start_exporter(port: int) -> Publish | None:
    """Serve metrics at ``http://HOST:port/metrics`` for as long as this process lives.

    Args:
        port: where; 0 serves nothing.

    Returns:
        What takes each round's line of ``metrics.jsonl``; None for port 0.

    Raises:
        FedShieldError: prometheus-client is not installed, or the port is taken.
    """
    if port == 0:
        return None
    try:
        from prometheus_client import CollectorRegistry, Gauge, start_http_server
    except ImportError as error:
        raise FedShieldError(
            f"results.prometheus-port = {port}: needs prometheus-client; install fedshield[prometheus], or set "
            "results.prometheus-port=0"
        ) from error
    registry = CollectorRegistry()

    def gauge(name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"fedshield_{name}", text, labels, registry=registry)

    done = gauge("round", "Rounds that are done")
    seconds = gauge("round_seconds", "Duration of the last round")
    loss = gauge("training_loss", "Mean training loss of the last round's clients")
    natural = gauge("natural_accuracy_ratio", "Natural accuracy on the test set, last evaluation")
    robust = gauge("robust_accuracy_ratio", "Robust accuracy on the test set, last evaluation", "attack")
    client_seconds = gauge("client_seconds", "How long a client trained in the last round", "client")
    refused = gauge("client_refused_rounds", "Rounds that a client was left out of", "client")

    def publish(record: Mapping[str, Any]) -> None:
        done.set(record["round"])
        seconds.set(record["seconds"])
        loss.set(record["loss"])
        for client, reply in record["clients"].items():
            client_seconds.labels(client).set(reply["seconds"])
        for client in record["refused"]:
            refused.labels(client).inc()
        if (evaluation := record["evaluation"]) is not None:
            natural.set(evaluation["natural"]["value"])
            for attack, rate in {**evaluation["robust"], "worst": evaluation["worst"]}.items():
                robust.labels(attack).set(rate["value"])

    try:
        start_http_server(port, registry=registry)
    except OSError as error:
        raise FedShieldError(
            f"results.prometheus-port = {port}: {error.strerror or error}; choose another, or 0 for none"
        ) from error
    return publish
