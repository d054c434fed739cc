"""The rounds of a running federation as Prometheus metrics, for those who watch it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from common.errors import FedShieldError
from common.paths import to_install
from server.diagnosis.diagnosis import SEVERE
from server.diagnosis.judge import TROUBLES

if TYPE_CHECKING:
    from prometheus_client import Gauge


class Exporter:
    """Serves metrics at ``http://HOST:PORT/metrics`` for as long as this process lives.

    Args:
        port: to listen on.
        host: address to listen on; there is no password.

    Raises:
        FedShieldError: prometheus-client is not installed, the port is taken, or the address is none of this machine's.
    """

    def __init__(self, port: int, host: str) -> None:
        try:
            from prometheus_client import CollectorRegistry, Gauge, start_http_server
        except ImportError as error:
            raise FedShieldError(
                f"results.prometheus-port = {port}: needs prometheus-client; run: {to_install('prometheus')}, or set "
                "results.prometheus-port=0"
            ) from error
        registry = CollectorRegistry()

        def gauge(name: str, text: str, *labels: str) -> "Gauge":
            return Gauge(f"fedshield_{name}", text, labels, registry=registry)

        self._done = gauge("round", "Rounds that are done")
        self._seconds = gauge("round_seconds", "Duration of the last round")
        self._loss = gauge("training_loss", "Mean training loss of the last round's clients")
        self._natural = gauge("natural_accuracy_ratio", "Natural accuracy on the test set, last evaluation")
        self._robust = gauge("robust_accuracy_ratio", "Robust accuracy on the test set, last evaluation", "attack")
        self._client_seconds = gauge("client_seconds", "How long a client trained in the last round", "client")
        self._refused = gauge("client_refused_rounds", "Rounds that a client was left out of", "client")
        self._troubles = gauge("trouble", "Diagnosis after the last round: 0 none, 1 mild, 2 severe", "trouble")
        # With a label, a run without differential privacy has no such metric, rather than an epsilon of 0.
        self._epsilon = gauge("epsilon", "Client-level differential privacy of all models so far", "delta")
        try:
            start_http_server(port, host, registry)
        except OSError as error:
            raise FedShieldError(
                f"results.prometheus-port = {port}, results.prometheus-host = {host}: {error.strerror or error}; "
                "choose others, or port 0 for none"
            ) from error

    def after_round(self, record: Mapping[str, Any]) -> None:
        """Take a round's line of ``metrics.jsonl``; centralized training has no clients."""
        self._done.set(record["round"])
        self._seconds.set(record["seconds"])
        if "loss" in record:  # a round without a model has none
            self._loss.set(record["loss"])
        self._client_seconds.clear()  # of clients that this round was without
        for client, reply in record.get("clients", {}).items():
            self._client_seconds.labels(client).set(reply["seconds"])
        for client in record.get("refused", ()):
            self._refused.labels(client).inc()
        if (spent := record.get("privacy")) is not None:
            self._epsilon.labels(f"{spent['delta']:g}").set(spent["epsilon"])
        if "diagnoses" in record:
            grades = {found["name"]: 1 + (found["severity"] == SEVERE) for found in record["diagnoses"]}
            for trouble in TROUBLES:
                self._troubles.labels(trouble.name).set(grades.get(trouble.name, 0))
        if (evaluation := record["evaluation"]) is not None:
            self._natural.set(evaluation["natural"]["value"])
            robust = evaluation["robust"]
            for attack, rate in {**robust, **({"worst": evaluation["worst"]} if robust else {})}.items():
                self._robust.labels(attack).set(rate["value"])

    def after_run(self, summary: Mapping[str, Any]) -> None:
        """Do nothing: the metrics are those of a running federation."""

    def close(self, finished: bool) -> None:
        """Do nothing: the last round can be read until the process ends."""
