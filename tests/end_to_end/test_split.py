"""Data that is divided for good: the same run as a simulation, and nobody sees another's images."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.config.schema import RunConfig
from common.data.split_directories import write_split
from common.errors import FedShieldError
from common.factory import client_data, prepare_data, server_data
from common.paths import ROOT
from server.run_directory.reader import read_metrics
from simulations.engine.executor import InProcess, Job, Outcome
from tests.helpers.program import invoke
from tests.helpers.runs import figures, run, same, weights
from tests.helpers.settings import tiny_config

SETTINGS = {"data__validation_fraction": 0.1, "partition__scheme": "dirichlet"}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("split") / "all"
    write_split(*prepare_data(tiny_config(**SETTINGS)), folder)
    return folder


@pytest.fixture
def folder(original: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(original, tmp_path / "all"))


def split_config(root: Path, **changes: object) -> RunConfig:
    return tiny_config(**{**SETTINGS, **changes}, data__name="split", data__root=str(root))


def test_a_run_on_the_directories_is_the_simulation_bit_for_bit(original: Path, tmp_path: Path) -> None:
    simulated = run(tmp_path, "simulated", **SETTINGS)
    divided = run(tmp_path, "divided", **SETTINGS, data__name="split", data__root=str(original))
    assert figures(divided) == figures(simulated)
    assert same(weights(divided), weights(simulated))
    final, expected = (json.loads((path / "summary.json").read_text())["final"] for path in (divided, simulated))
    assert final == expected
    assert len(final["per-client"]["worst"]) == 10
    told, known = (json.loads((path / "partition.json").read_text()) for path in (divided, simulated))
    assert {**told, "sha256": ""} == {**known, "sha256": ""}


def test_another_share_of_the_pool_needs_no_other_directories(original: Path) -> None:
    for fraction in (0.0, 0.7, 1.0):
        found = server_data(split_config(original, sharing__fraction=fraction))
        expected = server_data(tiny_config(**SETTINGS, sharing__fraction=fraction))
        assert np.array_equal(found.shared.images, expected.shared.images)
        assert np.array_equal(found.shared.labels, expected.shared.labels)
        assert np.array_equal(found.validation.images, expected.validation.images)


def test_each_directory_is_enough_for_its_holder(folder: Path) -> None:
    for name in ("server", "client-3"):
        shutil.move(folder / name, folder.parent / name)
    shutil.rmtree(folder)
    expected = tiny_config(**SETTINGS)
    own = client_data(split_config(folder.parent / "client-3"), 3)
    assert np.array_equal(own.images, client_data(expected, 3).images)
    assert np.array_equal(own.labels, client_data(expected, 3).labels)
    elsewhere = client_data(split_config(folder), 3, str(folder.parent / "client-3"))
    assert np.array_equal(elsewhere.images, own.images)
    held = server_data(split_config(folder.parent / "server"))
    assert np.array_equal(held.test.images, server_data(expected).test.images)


def test_images_of_a_clients_own_are_not_passed_over(folder: Path) -> None:
    with pytest.raises(
        FedShieldError, match=r"^data\.name = 'shapes10': .*/client-3', would not be used; set data\.name="
    ):
        client_data(tiny_config(**SETTINGS), 3, str(folder / "client-3"))


def test_no_image_is_in_two_directories(original: Path) -> None:
    rows = [path.name for path in original.rglob("*.png") if "test" not in path.parts]
    assert len(rows) == len(set(rows)) == 200


def test_images_of_another_size_are_resized_and_changes_are_seen(folder: Path) -> None:
    place = folder / "client-0"
    before = client_data(split_config(folder), 0)
    first = min(place.rglob("*.png"), key=lambda path: path.name)
    Image.new("RGB", (50, 40), (200, 0, 0)).save(first)
    after = client_data(split_config(folder), 0)
    assert after.images.shape == before.images.shape
    assert after.images[0].reshape(3, -1).T.tolist() == [[200, 0, 0]] * 1024
    assert np.array_equal(after.images[1:], before.images[1:])


def a_file(folder: Path) -> Path:
    return min((folder / "client-0" / "train").rglob("*.png"))


def rewrite(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("spoil", "settings", "expected"),
    [
        (lambda f: a_file(f).write_bytes(b"no image"), {}, ".png: not a readable image (cannot identify image file"),
        (lambda f: (f / "client-0/split.json").unlink(), {}, "all/split.json: not found; make it with fedshield spl"),
        (lambda f: (f / "client-0/split.json").write_text("{"), {}, "split.json: damaged (not valid JSON); make it"),
        (lambda f: rewrite(f / "client-0/split.json", client=4), {}, "client = 4, but this node's partition-id is 0"),
        (lambda f: rewrite(f / "client-0/split.json", classes=["a", "a"]), {}, "classes = ['a', 'a']: write differ"),
        (lambda f: (f / "client-0/train/dog").mkdir(), {}, "client-0/train/dog: not one of the classes in split.json"),
        (lambda f: shutil.rmtree(f / "client-0/train"), {}, "client-0/train: no images in it; this client has noth"),
        (lambda f: shutil.rmtree(f / "server/test"), {}, "server/test: no images in it; the server evaluates on them"),
        (lambda f: shutil.rmtree(f / "server/pool"), {}, "sharing.fraction = 0.4: "),
        (lambda f: rewrite(f / "server/split.json", clients=[[1, 2]]), {}, "clients: write images of each class for"),
        (lambda f: None, {"federation__clients": 7}, "federation.clients = 7: "),
    ],
)
def test_a_mistake_is_one_line_that_names_the_file(
    folder: Path, spoil: Callable[[Path], object], settings: dict[str, object], expected: str
) -> None:
    spoil(folder)
    config = split_config(folder, **settings)
    with pytest.raises(FedShieldError) as caught:
        client_data(config, 0) and server_data(config)
    assert expected in str(caught.value)
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_the_command_writes_once_and_never_overwrites(tmp_path: Path) -> None:
    command = ["split-data", "--set", "data.max-examples=100", "--out", "bench"]
    done = invoke(*command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        *(str(tmp_path / "bench" / name) for name in ("server", *(f"client-{client}" for client in range(10)))),
        "warning: fewer than 10 training images of a class at all clients together: disc 8, ring 8, square 8, frame 8, "
        "triangle 8 and 5 more; lower sharing.pool-fraction, or raise data.max-examples, or add images",
        "Training images: 100 of 4,000 are divided; 3,900 go to nobody (data.max-examples=0 divides all)",
        "Next, here as a simulation, or with real clients and their keys:",
        f"  fedshield run --set data.max-examples=100 --set data.name=split --set data.root={tmp_path}/bench",
        f"  fedshield certs --out {tmp_path}/bench --clients 10 --host HOST",
    ]
    before = sorted((tmp_path / "bench").rglob("*"))
    # Another share of the pool is no other division.
    again = invoke(*command, "--set", "sharing.fraction=0", cwd=tmp_path)
    assert (again.returncode, again.stdout) == (
        0,
        f"{tmp_path}/bench: this division already exists\n{done.stdout}".replace(
            "max-examples=100 ", "max-examples=100 --set sharing.fraction=0 "
        ),
    )
    refused = invoke(*command, "--set", "seed=2", cwd=tmp_path)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        f"fedshield: {tmp_path}/bench/server: contains other data; choose another --out, or remove what is there\n"
    )
    assert sorted((tmp_path / "bench").rglob("*")) == before


def test_an_interrupted_division_is_completed_and_no_other_is_mixed_with_it(original: Path, folder: Path) -> None:
    def content(place: Path) -> dict[str, bytes]:
        return {str(path.relative_to(place)): path.read_bytes() for path in place.rglob("*") if path.is_file()}

    manifest = json.loads((folder / "server" / "split.json").read_text())
    for name in ("server", "client-2", "client-3"):
        (folder / name / "split.json").unlink()
    shutil.rmtree(folder / "client-3" / "train")
    half = next((folder / "client-2" / "train").rglob("*.png"))
    half.write_bytes(half.read_bytes()[:40])
    (folder / "server" / "split.begun").write_text(manifest["content"])
    with pytest.raises(
        FedShieldError, match=r"/server: contains a part of other data; choose another --out, or remove"
    ):
        write_split(*prepare_data(tiny_config(**{**SETTINGS, "seed": 7})), folder)
    write_split(*prepare_data(tiny_config(**SETTINGS)), folder)
    assert content(folder) == content(original)


def test_a_folder_with_images_of_somebody_else_is_not_written_into(tmp_path: Path) -> None:
    own = tmp_path / "client-1" / "train" / "cat"
    own.mkdir(parents=True)
    with pytest.raises(FedShieldError, match=r"/client-1/train: contains other data; choose another --out, or remove"):
        write_split(*prepare_data(tiny_config(**SETTINGS)), tmp_path)
    assert not (tmp_path / "server").exists()


def test_commands_that_divide_data_themselves_refuse_it(original: Path, tmp_path: Path) -> None:
    settings = ["--set", "data.name=split", "--set", f"data.root={original}"]
    for command in (["partitions"], ["centralized"]):
        refused = invoke(*command, *settings, cwd=tmp_path)
        assert refused.returncode == 1
        assert refused.stderr.startswith("fedshield: data.name = split: these images are already divided")
        assert len(refused.stderr.splitlines()) == 1


def test_a_client_with_a_damaged_file_is_left_out_until_it_is_mended(folder: Path, tmp_path: Path) -> None:
    broken = a_file(folder)
    content = broken.read_bytes()
    broken.write_bytes(content[:100])

    class Mending(InProcess):
        """Gives the file back as the second round begins."""

        def run(self, jobs: Sequence[Job], timeout: float | None) -> Iterator[Outcome]:
            order = jobs[0].message.content.config_records.get("config") if jobs else None
            if order is not None and order["server-round"] == 1:
                yield from list(super().run(jobs, timeout))
                broken.write_bytes(content)
            else:
                yield from super().run(jobs, timeout)

    path = run(
        *(tmp_path, "run", Mending()),
        **{**SETTINGS, "federation__min_fraction": 0.9, "data__name": "split", "data__root": str(folder)},
    )
    first, second = read_metrics(path)
    assert list(first["refused"]) == ["0"]
    assert str(broken) in first["refused"]["0"]
    assert second["refused"] == {}
    assert len(second["clients"]) == 10


def test_what_macos_leaves_in_a_party_s_archive_is_no_image(original: Path, folder: Path) -> None:
    for place in (folder / "server" / "pool", folder / "client-3" / "train"):
        name = next(place.iterdir()).name
        for junk in (f"{name}/._00000000.png", f"{name}/.DS_Store", f"._{name}", f"__MACOSX/{name}/._00000000.png"):
            (place / junk).parent.mkdir(parents=True, exist_ok=True)
            (place / junk).write_bytes(b"\0\5\x16\7")
    (folder / "client-3" / "._split.json").write_bytes(b"\0\5\x16\7")
    there, expected = (client_data(split_config(root), 3) for root in (folder, original))
    assert np.array_equal(there.images, expected.images)
    pool, known = (server_data(split_config(root)).shared for root in (folder, original))
    assert np.array_equal(pool.images, known.images)


@pytest.mark.parametrize("part", ["server/pool", "server/validation", "server/test", "client-3/train"])
def test_a_part_that_is_a_link_to_nothing_is_named(folder: Path, part: str) -> None:
    (folder / part).rename(folder / "moved")
    (folder / part).symlink_to(folder / "gone")
    with pytest.raises(FedShieldError, match=rf"{part}: a link to .*/gone, which does not exist; repair or remove it$"):
        (server_data(split_config(folder)), client_data(split_config(folder), 3))


@pytest.mark.parametrize("name", ["T-shirt/top", ".hidden", "__MACOSX", ""])
def test_a_class_that_no_folder_can_be_named_after_is_refused(folder: Path, name: str) -> None:
    place = folder / "client-3" / "split.json"
    manifest = json.loads(place.read_text())
    place.write_text(json.dumps({**manifest, "classes": [name, *manifest["classes"][1:]]}))
    with pytest.raises(FedShieldError, match=rf"split\.json: classes: {name!r} cannot be the name of a class's folder"):
        client_data(split_config(folder), 3)


# One of Flower's processes for one message of a client, which does the work itself.
MESSAGE = """
import json, sys
from flwr.app import Context, Message, RecordDict
from simulations.engine.executor import InProcess, run_client
from simulations.engine.local_grid import LocalGrid
from tests.helpers.settings import tiny_config
LocalGrid(tiny_config(), InProcess())
sys.argv[0] = "/somewhere/flwr-clientapp"
context = Context(1, 4, json.loads(sys.argv[1]), RecordDict(), json.loads(sys.argv[2]))
reply, _ = run_client(Message(RecordDict(), 4, "query"), context)
print(reply.error.reason)
"""


@pytest.mark.parametrize("relative", [False, True])
def test_a_real_client_tells_its_own_log_the_path_and_the_server_the_name(folder: Path, relative: bool) -> None:
    broken = next((folder / "client-3" / "train").rglob("*.png"))
    broken.write_bytes(broken.read_bytes()[:100])

    def told(place: Path | str) -> tuple[str, str]:
        node = {"partition-id": 3, "num-partitions": 10, "data-path": str(place)}
        settings = split_config(Path("elsewhere")).flat()
        done = subprocess.run(
            [sys.executable, "-c", MESSAGE, json.dumps(node), json.dumps(settings)],
            env={**os.environ, "FEDSHIELD_RESIDENT": "0", "PYTHONPATH": str(ROOT)},
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout.strip(), done.stderr

    answer, log = told("client-3" if relative else folder / "client-3")
    assert answer.startswith(f"{broken.name}: not a readable image (")
    assert "/" not in answer
    assert f"this client cannot do what was asked: {broken}: not a readable image (" in log
    answer, log = told("clients/of/mine" if relative else folder / "gone")  # which names the folder itself
    assert answer.startswith(f"--node-config: data-path = '{'mine' if relative else 'gone'}': cannot be read (No such")
    assert f"data-path = '{'clients/of/mine' if relative else folder / 'gone'}'" in log
