"""Sends the app to a SuperLink and follows the run to its end, by Flower's own command line."""

import contextlib
import json
import logging
import os
import queue
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Self

import httpx
from cryptography.x509 import load_pem_x509_certificate
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.supercore.control import ControlHttpClient

from common.config.flat import Flat, toml_lines
from common.errors import FedShieldError
from common.paths import whole_path
from common.reach import Place
from common.words import in_one_line
from simulations.terminal.console import Terminal

log = logging.getLogger("fedshield")

_POLL_SECONDS = 2.0
_COMMAND_SECONDS = 120.0
_LOST_SECONDS = 600.0  # after which a SuperLink that was there does not come back
_SILENCE_SECONDS = 60.0  # of a log, after which it is asked for again: a dead connection looks the same


class Control:
    """Flower's command line for one SuperLink; a context, for a Flower configuration of its own.

    Args:
        address: HOST:PORT of the SuperLink.
        authority: certificate of the CA that has signed the SuperLink's; None for a SuperLink without TLS.
    """

    def __init__(self, address: str, authority: Path | None) -> None:
        self.address = address
        self._authority = None if authority is None else whole_path(authority)

    def __enter__(self) -> Self:
        self._check()
        self._home = tempfile.TemporaryDirectory(prefix="fedshield-flower-")
        trust = (
            "insecure = true" if self._authority is None else f"root-certificates = {json.dumps(str(self._authority))}"
        )
        path = Path(self._home.name) / "config.toml"
        path.write_text(
            f'[superlink]\ndefault = "it"\n[superlink.it]\naddress = {json.dumps(self.address)}\n{trust}\n', "utf-8"
        )
        switches = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "COLUMNS": "1000"}
        self._environment = {**os.environ, **switches, "FLWR_HOME": self._home.name, "PYTHONUNBUFFERED": "1"}
        return self

    def __exit__(self, *_: object) -> None:
        self._home.cleanup()

    def _check(self) -> None:
        self._place = Place(self.address, self._authority)
        if self._authority is None:
            return
        try:
            load_pem_x509_certificate(self._authority.read_bytes())
        except (OSError, ValueError) as error:
            raise FedShieldError(
                f"--ca {self._authority}: not a readable certificate; give the ca.crt of fedshield certs"
            ) from error

    def client(self) -> ControlHttpClient:
        """Return Flower's own client, for what its command line does not tell."""
        authority = None if self._authority is None else self._authority.read_bytes()
        return ControlHttpClient.from_server_address(self.address, authority is None, authority, [])

    def wait(self, seconds: float) -> None:
        """Wait until the SuperLink answers; a line says so where it does not at once.

        Raises:
            FedShieldError: it does not within ``seconds``, or never will.
        """
        deadline, told = time.monotonic() + seconds, False
        while reason := self._place.reach() or self._ask():
            if not told and seconds > 0:
                log.info("--superlink %s: no answer yet (%s); trying for up to %g s", self.address, reason, seconds)
                told = True
            if time.monotonic() >= deadline:
                raise FedShieldError(
                    f"--superlink {self.address}: no answer in {seconds:g} s ({reason}); start it, or give its address"
                )
            time.sleep(_POLL_SECONDS)

    def _ask(self) -> str:
        """Ask the SuperLink something; return why there is no answer, or "".

        Raises:
            FedShieldError: what is there does not run federations.
        """
        try:
            with self.client() as client:
                client.ListNodes(ListNodesRequest())
        except httpx.HTTPStatusError as error:
            told = f"{error.response.status_code} {error.response.reason_phrase}"
            if error.response.is_client_error:
                raise FedShieldError(
                    f"--superlink {self.address}: starts no runs ({told}); give the SuperLink's own address, not the "
                    "gateway's"
                ) from error
            return told
        except (httpx.HTTPError, ValueError) as error:
            return in_one_line(str(error))
        return ""

    def start(self, app: Path, settings: Flat) -> str:
        """Start a run of the app and return its number.

        Raises:
            FedShieldError: Flower refuses it.
        """
        values = Path(self._home.name) / "run.toml"  # not key=value on the command line, which takes no quotes
        values.write_text("\n".join(toml_lines(settings)), "utf-8")
        told = self._call("run", str(app), "it", "--run-config", str(values))
        found = re.search(r"Successfully started run (\d+)", told)
        if found is None:
            raise FedShieldError(f"{app}: Flower did not start a run: {_last_line(told)}")
        return found[1]

    def status(self, run: str) -> str:
        """Return Flower's name for the state of a run, ``running`` or ``finished:completed``; "" if unknown."""
        try:
            return str(json.loads(self._call("list", "--run-id", run, "--format", "json"))["runs"][0]["status"])
        except (ValueError, LookupError, TypeError):
            return ""

    def follow(self, run: str, console: Terminal, patience: float) -> str:
        """Print what the ServerApp logs until the run ends, also over restarts of the SuperLink; return its status.

        Raises:
            FedShieldError: the SuperLink has not answered for ``patience`` seconds.
        """
        printed = 0
        heard = time.monotonic()
        while True:
            printed, ended = self._stream(run, printed, console)
            if (status := self.status(run)).startswith("finished"):
                if not ended:  # the last lines may have come since
                    self._stream(run, printed, console)
                return status
            if status:
                heard = time.monotonic()
            elif time.monotonic() - heard > patience:
                raise FedShieldError(
                    f"--superlink {self.address}: no answer for {patience:g} s; when it is back, flwr list tells how "
                    f"run {run} stands"
                )
            time.sleep(_POLL_SECONDS)

    def _stream(self, run: str, printed: int, console: Terminal) -> tuple[int, bool]:
        """Print the lines of a log after the first ``printed``, until it ends or is silent for long.

        Returns:
            How many lines there are now, and whether the log has ended by itself.
        """
        command = [*_FLWR, "log", run, "it", "--stream"]
        seen = 0
        ended = True
        with subprocess.Popen(  # noqa: S603
            command,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            errors="replace",
        ) as process:
            try:
                for line in _lines(process.stdout or (), _SILENCE_SECONDS):
                    if _FLOWERS_OWN.match(line):  # FedShield's own lines say the same in short
                        continue
                    seen += 1
                    if seen > printed:
                        console.print(_COLOR.sub("", line.rstrip("\n")))
            except queue.Empty:
                ended = False
            finally:
                process.kill()
        return max(seen, printed), ended

    def _call(self, *arguments: str) -> str:
        try:
            done = subprocess.run(  # noqa: S603
                [*_FLWR, *arguments],
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=_COMMAND_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"no answer in {_COMMAND_SECONDS:g} s"
        return done.stdout


_FLWR = [sys.executable, "-c", "from flwr.cli.app import app; app()"]
_COLOR = re.compile(r"\x1b\[\d+m")  # of Flower's word "WARNING" or "ERROR"
_FLOWERS_OWN = re.compile(r"\x1b\[\d+m(INFO|DEBUG) |Using SuperLink: |Successfully installed ")


def submit(settings: Flat, control: Control, app: Path, console: Terminal, patience: float) -> None:
    """Start a run and follow it to its end.

    Args:
        settings: the run's whole configuration.
        control: of the SuperLink.
        app: the app's folder, that of its ``pyproject.toml``.
        console: takes the ServerApp's log.
        patience: how long to wait for the SuperLink, in seconds.

    Raises:
        FedShieldError: the SuperLink does not answer, or the run did not complete.
    """
    if not (app / "pyproject.toml").is_file():
        raise FedShieldError(f"--app {app}: no pyproject.toml in it; give a checkout of FedShield")
    with control:
        control.wait(patience)
        run = control.start(app, settings)
        console.print(f"Run {run} at {control.address}")
        try:
            status = control.follow(run, console, max(patience, _LOST_SECONDS))
        except KeyboardInterrupt:
            console.print(f"Run {run} continues at {control.address}; flwr stop {run} ends it there")
            raise
    if status != "finished:completed":
        raise FedShieldError(f"run {run}: {status}; the reason is in the log above")


def _lines(stream: Iterable[str], silence: float) -> Iterator[str]:
    """Yield lines as they come.

    Raises:
        queue.Empty: none came for ``silence`` seconds.
    """
    arrived: queue.SimpleQueue[str | None] = queue.SimpleQueue()

    def read() -> None:
        for line in stream:
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    yield from iter(lambda: arrived.get(timeout=silence), None)


def _last_line(text: str) -> str:
    """Return a command's last line of output, without the box that Flower draws around it."""
    with contextlib.suppress(ValueError, LookupError, TypeError):
        text = json.loads(text)["error-message"]
    lines = [line.strip(" │\t") for line in text.splitlines() if not set(line) <= set("─╭╮╰╯ ")]
    useful = [line for line in lines if line and not line.startswith("For more information, visit:")]
    return useful[-1] if useful else "no output"
