"""Handing a run to a SuperLink: every mistake in one line, every value as it is, every line of the log once."""

import sys
import tempfile
from io import StringIO
from pathlib import Path

import psutil
import pytest
from flwr.common.config import parse_config_args

from common.config.flat import default_config, toml_lines
from common.errors import FedShieldError
from common.paths import ROOT
from simulations.deployment import flower_control
from simulations.deployment.certificates import make_certs
from simulations.deployment.flower_control import Control
from simulations.terminal.console import Terminal

# As flwr log: the first time it falls silent after two lines and a complaint, then it has all of them.
TALKER = """
import pathlib, sys, time
count = pathlib.Path({count!r})
times = int(count.read_text())
count.write_text(str(times + 1))
print("Using SuperLink: it (localhost:1)")
print("\\x1b[92mINFO \\x1b[0m:  Flower's own")
for number in range(2 if times == 0 else 3):
    print("line", number)
if times:
    print("\\x1b[93mWARNING \\x1b[0m:  a client says \\x1b[2J[/bold]")
if times == 0:
    print("a box about the connection", file=sys.stderr)
    sys.stdout.flush()
    time.sleep(600)
"""


@pytest.mark.parametrize(
    "address", ["localhost", "", "https://localhost:1", "localhost:port", "local host:1", "::1:8000"]
)
def test_an_address_that_is_none_is_named(address: str) -> None:
    with (
        pytest.raises(FedShieldError, match=r"^--superlink '.*': write HOST:PORT, as in localhost:8000$"),
        Control(address, None),
    ):
        pass


@pytest.mark.parametrize("content", [None, "not a certificate"])
def test_a_ca_that_is_none_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.crt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(FedShieldError, match=f"^--ca {path}: not a readable certificate"), Control("localhost:1", path):
        pass


def test_a_superlink_that_is_not_there_is_named_and_a_ca_may_be_relative(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    make_certs(tmp_path / "federation", 1, ["localhost"])
    monkeypatch.chdir(tmp_path)
    caplog.set_level("INFO")
    with (
        pytest.raises(FedShieldError, match=r"^--superlink localhost:1: no answer in 0 s \(Connection .*\); start it"),
        Control("localhost:1", Path("federation/ca.crt")) as control,
    ):
        control.wait(0)
    assert not caplog.messages
    with (
        pytest.raises(FedShieldError, match=r"^--superlink localhost:1: no answer in 0.1 s"),
        Control("localhost:1", None) as control,
    ):
        control.wait(0.1)
    (told,) = caplog.messages
    assert told.startswith("--superlink localhost:1: no answer yet (Connection ")
    assert told.endswith("); trying for up to 0.1 s")


def test_what_flower_refuses_is_told() -> None:
    with (
        Control("localhost:1", None) as control,
        pytest.raises(FedShieldError, match="did not start a run: Connection to the SuperLink is unavailable"),
    ):
        control.start(ROOT, default_config())


def test_every_value_reaches_flower_as_it_is(tmp_path: Path) -> None:
    settings = {**default_config(), "data.root": "a b/\"c\" 'd' \\e=f/ü 🙂\t\x7f", "attack.epsilon-255": 1.5e-7}
    path = tmp_path / "run.toml"
    path.write_text("\n".join(toml_lines(settings)))
    assert parse_config_args([str(path)]) == settings


def test_a_log_that_falls_silent_is_asked_for_again_and_no_line_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    count.write_text("0")
    monkeypatch.setattr(flower_control, "_FLWR", [sys.executable, "-c", TALKER.format(count=str(count))])
    monkeypatch.setattr(flower_control, "_SILENCE_SECONDS", 3)
    out = StringIO()
    with Control("localhost:1", None) as control:
        printed, ended = control._stream("1", 0, Terminal(file=out))
        assert (printed, ended) == (2, False)
        assert control._stream("1", printed, Terminal(file=out)) == (4, True)
    warning = "WARNING :  a client says \\x1b[2J[/bold]"
    assert out.getvalue().splitlines() == ["line 0", "line 1", "line 2", warning]
    assert not [child for child in psutil.Process().children() if TALKER[:40] in " ".join(child.cmdline())]
    assert not list(Path(tempfile.gettempdir()).glob(f"{Path(control._home.name).name}*"))
