"""A federation of real processes on this machine, as docker-compose.yml has it in containers: TLS, keys, own data."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

from common.config.flat import Flat
from common.data.split_directories import write_split
from common.factory import prepare_data
from common.paths import ROOT
from simulations.deployment.certificates import make_certs
from simulations.deployment.flower_control import Control
from simulations.deployment.register import register
from tests.helpers.processes import free_ports, with_environment
from tests.helpers.settings import TINY, tiny_config, until

BIN = Path(sys.executable).parent
_MARK = "FEDSHIELD_BENCH"  # a part's name, which all that it starts inherits


class Bench:
    """SuperLink, SuperExec and SuperNodes; used as a context, it leaves no process behind.

    Args:
        folder: for everything that the processes write.
        clients: how many SuperNodes are started.
        settings: what differs from the tests' small configuration.
    """

    def __init__(self, folder: Path, clients: int, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self.clients = clients
        self.settings: Flat = {
            **TINY,
            "federation.clients": clients,
            "partition.scheme": "iid",
            **settings,
        }
        self.supernode = "fedshield-supernode"
        self.database = folder / "superlink.db"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        config = tiny_config(**{key.replace(".", "__").replace("-", "_"): v for key, v in self.settings.items()})
        write_split(*prepare_data(config), self.folder / "data")
        make_certs(self.folder / "certs", self.clients, ["localhost", "127.0.0.1"])
        self.port, *self.client_ports = free_ports(1 + self.clients)
        self.address = f"127.0.0.1:{self.port}"
        self.environment = {
            **os.environ,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "FLWR_HOME": str(self.folder / "flower"),
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
        }
        self.control = Control(self.address, self.folder / "certs" / "ca.crt").__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.control.__exit__()
        for name in list(self.processes):
            self.stop(name)

    def start(self, name: str, command: list[str], environment: Mapping[str, str] | None = None) -> None:
        """Start a process in a session of its own; its output goes into ``NAME.log``."""
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [str(BIN / command[0]), *command[1:]],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**self.environment, _MARK: f"{self.folder}/{name}", **(environment or {})},
                cwd=self.folder,
                start_new_session=True,
            )

    def stop(self, name: str, number: signal.Signals = signal.SIGKILL) -> None:
        """End a process and all that it has started."""
        found = self.pids(name)
        process = self.processes.pop(name)
        for pid in found:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
                os.kill(pid, number)
        process.wait(30)

    def pids(self, name: str) -> list[int]:
        """Return the live processes of a part: its own, and all that it has started, also those that outlive it."""
        return with_environment(f"{_MARK}={self.folder}/{name}")

    def start_superlink(self) -> None:
        certs = self.folder / "certs"
        self.start(
            "superlink",
            [
                *("fedshield-superlink", "--host", "127.0.0.1", "--port", str(self.port), "--isolation", "process"),
                *("--database", str(self.database), "--enable-supernode-auth"),
                *("--ssl-ca-certfile", str(certs / "ca.crt"), "--ssl-certfile", str(certs / "superlink/server.crt")),
                *("--ssl-keyfile", str(certs / "superlink/server.key")),
                *("--superexec-auth-secret-file", str(certs / "superlink/superexec-secret")),
            ],
        )

    def start_server(self) -> None:
        """Start what runs the ServerApp."""
        certs = self.folder / "certs"
        self.start(
            "server",
            [
                *("flower-superexec", "--runtime-api-address", self.address),
                *("--root-certificates", str(certs / "ca.crt")),
                *("--superexec-auth-secret-file", str(certs / "server/superexec-secret")),
            ],
            {"FEDSHIELD_CACHE": str(self.folder / "cache-server")},
        )

    def start_client(
        self,
        client: int,
        authority: Path | None = None,
        retries: int | None = None,
        address: str | None = None,
        says: int | None = None,
    ) -> None:
        """Start a client's SuperNode; ``says`` is the number that it gives, if not its own."""
        certs = self.folder / "certs"
        place = self.folder / "data" / f"client-{client}"
        number = client if says is None else says
        self.start(
            f"client-{client}",
            [
                *(self.supernode, "--superlink", address or self.address),
                *("--root-certificates", str(authority or certs / "ca.crt")),
                *(() if retries is None else ("--max-retries", str(retries))),
                *("--host", "127.0.0.1", "--port", str(self.client_ports[client])),
                *("--auth-supernode-private-key", str(certs / f"client-{client}" / "client.key")),
                *(
                    "--node-config",
                    f'partition-id={number} num-partitions={self.clients} data-path="{place}"',
                ),
            ],
            {"FEDSHIELD_CACHE": str(self.folder / f"cache-{client}")},
        )

    def start_all(self) -> None:
        self.start_superlink()
        authority = self.folder / "certs" / "ca.crt"
        register(Control(self.address, authority), self.folder / "certs" / "operator" / "clients", 60)
        for client in range(self.clients):
            self.start_client(client)
        self.start_server()

    def submit(self, app: Path = ROOT, **settings: Any) -> str:
        """Start a run of an app; return its number."""
        return self.control.start(app, self.run_config(**settings))

    def run_config(self, **settings: Any) -> Flat:
        return {
            **self.settings,
            "data.name": "split",
            "data.root": str(self.folder / "data"),
            "results.dir": str(self.folder / "runs"),
            "results.name": "run",
            **settings,
        }

    def finish(self, run: str, timeout: float = 300) -> str:
        """Wait for a run to end and return its status."""
        self.until(lambda: self.control.status(run).startswith("finished"), timeout, every=5)
        return self.control.status(run)

    def until(self, holds: Callable[[], bool], timeout: float, every: float = 1) -> None:
        until(holds, timeout, every, self.logs)

    def logs(self) -> str:
        """Return the end of what each process has printed."""
        return "\n".join(
            f"== {path.name}\n{path.read_text(errors='replace')[-3000:]}" for path in self.folder.glob("*.log")
        )


@contextlib.contextmanager
def running(folder: Path, clients: int, **settings: Any) -> Iterator[Bench]:
    with Bench(folder, clients, settings) as bench:
        bench.start_all()
        yield bench
