"""Objects of a notebook become files that mean the same."""

import linecache
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from common.errors import FedShieldError
from common.user_code import load_user_code
from fedshield.given import reference_to
from fedshield.sources import UnwritableError, source_of
from tests.helpers.cells import run_cell

NETWORK = """
import math
import torch.nn.functional as F
from torch import nn
from fedshield import Normalize

SCALE = 0.5
images = object()  # has the name of an argument below, and is not needed

def doubled(value):
    return 2 * value

def layer(width):
    return nn.Conv2d(3, width, 3) if math.pi > 3 else None

class Base(nn.Module):
    def scaled(self, x):
        return x * doubled(SCALE)

class Net(Base):
    def __init__(self, classes=10, width: "int" = 4):
        super().__init__()
        self.first = nn.Sequential(Normalize(), layer(width))
        self.last = nn.Linear(width, classes)

    def forward(self, images):
        return self.last(self.scaled(F.relu(self.first(images)).mean((2, 3))))
"""


def test_a_class_is_written_with_what_it_uses_and_nothing_else() -> None:
    names = run_cell(NETWORK)
    text = source_of(names["Net"], "Net")
    assert "from fedshield import Normalize" in text
    assert "images = " not in text
    written: dict[str, Any] = {"__name__": "written"}
    exec(text, written)
    torch.manual_seed(1)
    here = names["Net"](width=3)
    torch.manual_seed(1)
    there = written["Net"](width=3)
    pixels = torch.rand(2, 3, 8, 8)
    assert torch.equal(here(pixels), there(pixels))


def test_of_a_cell_that_ran_twice_the_newer_definition_counts() -> None:
    names = run_cell("def f():\n    return 1\n")
    run_cell("def f():\n    return 2\n", names)
    assert "return 2" in source_of(names["f"], "f")


DECORATED = """
import functools
import torch

def counted(by):
    def decorate(f):
        @functools.wraps(f)
        def wrapper(*arguments: int) -> int:
            return by + f(*arguments)
        return wrapper
    return decorate

@counted(10)
@torch.no_grad()
def down(n: int) -> int:
    return down(n - 1) + 1 if n else 0

def plain(n):
    return n

@functools.lru_cache
def kept(n):
    return n
"""


def test_decorators_and_recursion_are_kept() -> None:
    names = run_cell(DECORATED)
    written: dict[str, Any] = {"__name__": "written"}
    exec(source_of(names["down"], "down"), written)
    assert written["down"](3) == names["down"](3) == 43


def refused(cell: str, change: str, name: str) -> dict[str, Any]:
    """Change, in a later cell, what a cell has defined; return the names, once ``name`` cannot be written any more."""
    names = run_cell(cell)
    run_cell(change, names)
    with pytest.raises(UnwritableError):
        source_of(names[name], name)
    return names


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("strong = counted(100)(plain)", "strong"),  # whose source is that of plain
        ("down = counted(7)(down)", "down"),
        ("def newer(n):\n    return 3 * n\nplain.__code__ = newer.__code__", "plain"),
    ],
)
def test_a_function_that_is_not_what_its_source_says_is_pickled(change: str, name: str) -> None:
    names = refused(DECORATED, change, name)
    assert load_user_code("loss.name", reference_to("loss.name", names[name]))(3) == names[name](3)


CLASS = """
from torch import nn

HIDDEN = 4

class Net(nn.Module):
    SCALE = 2

    def __init__(self, classes: int = 10, width: int = HIDDEN) -> None:
        super().__init__()
        self.width = width

    def forward(self, x):
        return self.SCALE * x
"""


@pytest.mark.parametrize(
    "change",
    [
        "def forward(self, x):\n    return 200 * x\nNet.forward = forward",
        "Net.SCALE = 3",
        "Net.MORE = 3",
        "del Net.SCALE",
        "HIDDEN = 16",  # the default was taken before
        "class Net(Net):\n    def forward(self, x):\n        return super().forward(x) + 1",
        "old = Net.forward\nNet.forward = lambda self, x: old(self, x)",
    ],
)
def test_a_class_that_was_changed_after_its_definition_is_pickled(change: str) -> None:
    assert "class Net" in source_of(run_cell(CLASS)["Net"], "Net")
    names = refused(CLASS, change, "Net")
    here, there = names["Net"](), load_user_code("model.name", reference_to("model.name", names["Net"]))()
    assert there.width == here.width == 4
    if "del" not in change:
        assert there(5) == here(5)


def test_of_a_file_that_was_edited_what_was_imported_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "my_loss.py").write_text("def f(x):\n    return 2 * x\n")
    names = run_cell("from my_loss import f\n")
    assert "2 * x" in source_of(names["f"], "f")
    (tmp_path / "my_loss.py").write_text("def f(x):\n    return 3 * x\n")
    linecache.checkcache()
    with pytest.raises(UnwritableError, match="the file of f has changed since it was run"):
        source_of(names["f"], "f")
    assert load_user_code("loss.name", reference_to("loss.name", names["f"]))(5) == 10


HELD = """
import functools
import torch

MEANS = [1.0]

class Mean:
    MEAN = torch.tensor(MEANS)
    def f(self): pass

class Random:
    P = torch.randn(2)
    def f(self): pass

def one(): return 1
def two(): return 2
def difference(): return one() - two()

class Round(torch.autograd.Function):
    @staticmethod
    def forward(context, x): return x.round()
    @staticmethod
    def backward(context, gradient): return gradient

def by(f):
    @functools.wraps(f)
    def wrapper(x): return f(x), unset
    if f is None:
        unset = 1
    return wrapper

@by
def decorated(x, many=range(3)): return Round.apply(x)
"""


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ("MEANS = [9.0]", "Mean"),
        ("Mean.MEAN = torch.tensor([2.0])", "Mean"),
        ("", "Random"),
        ("one.__code__, two.__code__ = two.__code__, one.__code__", "difference"),
        ("class Deep: pass\nMean.deep = end = Deep()\nfor _ in range(2000):\n    end.next = end = Deep()", "Mean"),
    ],
)
def test_what_a_definition_holds_is_compared(change: str, name: str) -> None:
    refused(HELD, change, name)


@pytest.mark.parametrize("name", ["Mean", "Round", "decorated", "difference"])
def test_what_is_as_it_was_defined_is_written(name: str) -> None:
    assert f" {name}(" in source_of(run_cell(HELD)[name], name).replace(":", "(")


def test_what_can_neither_be_compared_nor_pickled_is_kept_by_its_source(caplog: pytest.LogCaptureFixture) -> None:
    text = "import functools\n@functools.singledispatch\ndef f(x):\n    return 2 * x\n"
    logging.getLogger("fedshield").addHandler(caplog.handler)
    try:
        reference = reference_to("loss.name", run_cell(text)["f"])
    finally:
        logging.getLogger("fedshield").removeHandler(caplog.handler)
    assert load_user_code("loss.name", reference)(3) == 6
    assert "loss.name = f: only its source is kept, and cannot be checked, because f is not what" in caplog.text


USUAL = """
import enum
from dataclasses import dataclass, field
import torch
from torch import Tensor, nn

class Kind(enum.Enum):
    PLAIN = 1
    def told(self): return self.name

@dataclass(frozen=True)
class Settings:
    width: int = 4
    kinds: tuple[Kind, ...] = (Kind.PLAIN,)
    names: list[str] = field(default_factory=list)
    def twice(self): return 2 * self.width

class Net(nn.Module):
    def __init__(self, classes=10, settings=Settings()):
        super().__init__()
        self.last = nn.Linear(settings.width, classes)

    @property
    def kind(self): return Kind.PLAIN

    @staticmethod
    def twice(x: Tensor) -> Tensor: return 2 * x

    @classmethod
    def small(cls): return cls(2)

    @torch.no_grad()
    def forward(self, x):
        def inner(y: Tensor, *, by: float = 0.5) -> Tensor:
            return by * y
        return self.twice(inner(self.last(x)))
"""


def test_what_people_write_is_written_as_it_is() -> None:
    names = run_cell(USUAL)
    for name in ("Net", "Settings"):
        assert f"class {name}" in source_of(names[name], name)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("f = lambda: 1", "lambda"),
        ("def made():\n    a = 1\n    def f():\n        return a\n    return f\nf = made()", "inside another function"),
        ("table = object()\ndef f():\n    return table", "it uses table, a object"),
    ],
)
def test_what_cannot_be_written_says_why(text: str, why: str) -> None:
    with pytest.raises(UnwritableError, match=why):
        source_of(run_cell(text)["f"], "f")


def test_what_cannot_be_written_is_pickled_and_loads_in_another_process(tmp_path: Path) -> None:
    names = run_cell("class Table:\n    rows = [1, 2]\ntable = Table()\ndef f():\n    return sum(table.rows)\n")
    reference = reference_to("loss.name", names["f"])
    assert load_user_code("loss.name", reference)() == 3
    code = f"from common.user_code import load_user_code\nprint(load_user_code('loss.name', {reference!r})())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "3", done.stderr


def test_a_network_that_is_an_object_keeps_its_weights_and_gives_a_copy_each_time() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(12, 2))
    make = load_user_code("model.name", reference_to("model.name", network))
    first, second = make(), make()
    assert torch.equal(first[1].weight, network[1].weight)
    assert first[1].weight is not second[1].weight


SCALED = """
import enum
import numpy as np
from torch import nn

SCALE = 1.0
DIVISOR = np.array([1.0])  # has no source that can be written

class Kind(enum.Enum):
    PLAIN = 1

    def factor(self):
        return SCALE

class Base(nn.Module):
    def scaled(self, x):
        return SCALE * x

class Net(Base):
    def __init__(self, classes=10):
        super().__init__()
        self.last = nn.Identity()

    def forward(self, x):
        return self.scaled(self.last(x)) * Kind.PLAIN.factor() / float(DIVISOR[0])
"""


@pytest.mark.parametrize("make", ["Net", "Net()"])
def test_a_pickle_has_the_values_of_now_and_its_own_classes(make: str) -> None:
    """A copy that is loaded in this process, and is changed, leaves the notebook's classes as they are."""
    names = run_cell(SCALED)
    kinds = [names[name] for name in ("Kind", "Base", "Net")]
    before, one, copies = [dict(vars(kind)) for kind in kinds], torch.ones(1), []
    for scale in (1.0, 3.0):
        names["SCALE"] = scale
        copies.append(load_user_code("model.name", reference_to("model.name", eval(make, names)))())
    assert [copied(one).item() for copied in copies] == [1, 9]
    assert names["Net"]()(one).item() == 9
    assert [dict(vars(kind)) for kind in kinds] == before
    assert names["Net"].forward.__globals__ is names
    type(copies[0]).forward = lambda self, x: 7 * x
    assert [copied(one).item() for copied in copies] == [7, 9]
    assert names["Net"]()(one).item() == 9
    assert "class Base" in source_of(names["Base"], "Base")


def test_the_same_object_is_the_same_file() -> None:
    first, second = (reference_to("model.name", run_cell(NETWORK)["Net"]) for _ in range(2))
    assert first == second


def test_of_a_file_in_the_folder_names_are_written_and_the_whole_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_helpers.py").write_text("WIDE = 3\ndef wide(x):\n    return WIDE * x\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    names = run_cell("import my_helpers\nfrom my_helpers import wide\ndef f():\n    return wide(2)\n")
    run_cell("def g():\n    return my_helpers.wide(2)\n", names)
    written: dict[str, Any] = {"__name__": "written"}
    exec(source_of(names["f"], "f"), written)
    assert written["f"]() == 6
    assert "my_helpers" not in source_of(names["f"], "f")
    with pytest.raises(FedShieldError, match="by name: from my_helpers import"):
        reference_to("loss.name", names["g"])


def test_a_name_stays_and_another_value_is_refused() -> None:
    assert reference_to("model.name", "cnn") == "cnn"
    with pytest.raises(FedShieldError, match=r"model\.name = 3: give a name, FILE\.py:NAME, or a function or class"):
        reference_to("model.name", 3)


def test_what_cannot_be_pickled_is_one_line() -> None:
    names = run_cell("import threading\nlock = threading.Lock()\ndef f():\n    return lock\n")
    with pytest.raises(FedShieldError, match=r"loss\.name = f: cannot be sent to another process .*lock") as told:
        reference_to("loss.name", names["f"])
    assert "\n" not in str(told.value)
