"""What Prometheus reads of a run."""

import socket
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

from common.errors import FedShieldError
from server.monitoring.prometheus import Exporter
from server.run_directory.reader import read_metrics
from tests.helpers.processes import free_ports
from tests.helpers.runs import run


def test_prometheus_reads_the_last_round_of_a_run(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    path = run(tmp_path, "run", results__prometheus_port=port)
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = dict(line.rsplit(" ", 1) for line in page.read().decode().splitlines() if not line.startswith("#"))
    last = read_metrics(path)[-1]
    assert float(lines["fedshield_round"]) == 2
    assert float(lines["fedshield_training_loss"]) == last["loss"]
    assert float(lines['fedshield_client_seconds{client="9"}']) == last["clients"]["9"]["seconds"]
    figures = last["evaluation"]
    assert float(lines["fedshield_natural_accuracy_ratio"]) == figures["natural"]["value"]
    for attack in ("fgsm", "pgd-2"):
        found = lines[f'fedshield_robust_accuracy_ratio{{attack="{attack}"}}']
        assert float(found) == figures["robust"][attack]["value"]
    assert float(lines['fedshield_robust_accuracy_ratio{attack="worst"}']) == figures["worst"]["value"]


def test_refusals_are_counted_by_client() -> None:
    (port,) = free_ports(1)
    exporter = Exporter(port, "127.0.0.1")
    round_ = {"seconds": 1.0, "loss": 2.0, "evaluation": None}
    for number, refused in enumerate(({"3": "no reply in time"}, {}, {"3": "died", "4": "died"}), 1):
        clients = {client: {"seconds": 1.5} for client in {"3", "4", "5"} - refused.keys()}
        exporter.after_round({**round_, "round": number, "refused": refused, "clients": clients})
    with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        lines = page.read().decode().splitlines()
    assert 'fedshield_client_refused_rounds{client="3"} 2.0' in lines
    assert 'fedshield_client_refused_rounds{client="4"} 1.0' in lines
    seconds = [line for line in lines if line.startswith("fedshield_client_seconds{")]
    assert seconds == ['fedshield_client_seconds{client="5"} 1.5']


def test_epsilon_is_there_only_with_differential_privacy() -> None:
    (port,) = free_ports(1)
    exporter = Exporter(port, "127.0.0.1")

    def epsilons() -> list[str]:
        with urlopen(f"http://127.0.0.1:{port}/metrics") as page:
            return [line for line in page.read().decode().splitlines() if line.startswith("fedshield_epsilon")]

    exporter.after_round({"round": 1, "seconds": 1.0, "evaluation": None})
    assert epsilons() == []
    spent = {"epsilon": 3.5, "delta": 1e-5}
    exporter.after_round({"round": 2, "seconds": 1.0, "evaluation": None, "privacy": spent})
    assert epsilons() == ['fedshield_epsilon{delta="1e-05"} 3.5']


def test_a_port_that_is_taken_is_one_line() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(FedShieldError, match=rf"results.prometheus-port = {port}, .*: Address already in use"):
            Exporter(port, "127.0.0.1")


def test_an_address_that_is_none_of_this_machines_is_one_line() -> None:
    (port,) = free_ports(1)
    for host in ("203.0.113.1", "no.such.host.invalid"):
        with pytest.raises(FedShieldError, match=rf"results.prometheus-host = {host}: .*choose others, or port 0"):
            Exporter(port, host)


def test_only_this_machine_reads_it_unless_told_otherwise(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    run(tmp_path, "run", results__prometheus_port=port)
    listening = [c.laddr.ip for c in psutil.Process().net_connections() if c.laddr and c.laddr.port == port]
    assert set(listening) == {"127.0.0.1"}
