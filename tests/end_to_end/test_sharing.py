"""Runs whose clients receive something other than the pool's images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from common.config.flat import Flat
from common.data.split_directories import write_split
from common.errors import FedShieldError
from common.factory import prepare_data, server_data
from common.files import read_json
from server.run_directory.reader import read_metrics
from simulations.cli.main import app
from simulations.engine.process_executor import Processes
from tests.helpers.images import make_folder
from tests.helpers.program import tiny_options
from tests.helpers.runs import figures, run, run_in_parts, run_with, same, weights
from tests.helpers.settings import tiny_config

ONE: Flat = {"federation__rounds": 1, "evaluate__attacks": "fgsm", "evaluate__final_attacks": ""}
KINDS: dict[str, Flat] = {
    "images": {},
    "noised": {"sharing__kind": "noised"},
    "averaged": {"sharing__kind": "averaged", "sharing__average": 2, "sharing__fraction": 1.0},
    "distilled": {"sharing__kind": "distilled", "sharing__per_class": 1, "sharing__steps": 2},
}


def described(run_dir: Path) -> dict:
    return read_json(run_dir / "partition.json", "")


def test_each_kind_is_sent_told_and_described(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedshield")
    found, models = {}, {}
    for kind, changes in KINDS.items():
        path = run(tmp_path, kind, **ONE, **changes)
        found[kind], models[kind] = described(path), weights(path)
        own = [sum(counts) for counts in found[kind]["clients"]]
        trained = [reply["num-examples"] for reply in read_metrics(path)[0]["clients"].values()]
        assert trained == [images + sum(found[kind]["shared"]) for images in own]
        assert f" images (sharing.kind = {kind}); label distance between clients 0.89 -> " in caplog.text
    assert {kind: sum(each["shared"]) for kind, each in found.items()} == {
        **{"images": 16, "noised": 16},
        "averaged": 20,  # of the 40 of the pool, two by two
        "distilled": 10,
    }
    assert "shared-sha256" not in found["images"]
    assert len({each["shared-sha256"] for kind, each in found.items() if kind != "images"}) == 3
    gains = {kind: each["alignment"] for kind, each in found.items()}
    assert gains["noised"]["labels"] == gains["images"]["labels"]
    assert gains["noised"]["features"]["after"] > gains["images"]["features"]["after"]
    assert not any(same(models["images"], models[kind]) for kind in ("noised", "averaged", "distilled"))
    report = CliRunner().invoke(app, ["report", str(tmp_path / "averaged")])
    assert report.exit_code == 0, report
    assert "20 images to every client (sharing.kind = averaged)" in (tmp_path / "averaged/report.html").read_text()


def test_processes_have_the_same_bits(tmp_path: Path) -> None:
    here = run(tmp_path, "here", **ONE, **KINDS["distilled"])
    there = run_with(Processes, tmp_path, "there", **ONE, **KINDS["distilled"])
    assert described(here) == described(there)
    assert same(weights(here), weights(there))


def test_directories_of_real_clients_give_the_same_bits(tmp_path: Path) -> None:
    changes: Flat = {**ONE, **KINDS["averaged"]}
    original = tiny_config(**changes)
    write_split(*prepare_data(original), tmp_path / "split")
    divided = run(tmp_path, "divided", data__name="split", data__root=str(tmp_path / "split"), **changes)
    whole = run(tmp_path, "whole", **changes, train__flip="on")
    assert described(divided)["shared-sha256"] == described(whole)["shared-sha256"]
    assert same(weights(divided), weights(whole))


def test_distilled_images_are_kept_for_the_run_that_goes_on(tmp_path: Path) -> None:
    changes: Flat = {**ONE, **KINDS["distilled"], "federation__rounds": 2}
    whole = run(tmp_path, "whole", **changes)
    kept = whole / "shared.safetensors"
    part = run_in_parts(tmp_path, lambda reply: reply.server_round == 2, **changes)
    assert (part / kept.name).read_bytes() == kept.read_bytes()
    assert same(weights(part), weights(whole))
    assert figures(part) == figures(whole)
    content = bytearray(kept.read_bytes())
    content[-1] ^= 1
    kept.write_bytes(content)
    with pytest.raises(FedShieldError, match=r"shared.safetensors: damaged, or of another run; restore it, or start"):
        run(tmp_path, "ignored", results__resume=str(whole), **{**changes, "federation__rounds": 3})


def test_another_dataset_takes_the_place_of_the_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "pets", images=8)
    for name in ("cat", "dog"):
        (tmp_path / "others" / name).mkdir(parents=True)
        for number in range(5):
            Image.new("RGB", (40, 30), (number, 99, 0)).save(tmp_path / "others" / name / f"{number}.png")
    monkeypatch.chdir(tmp_path)
    pets = {"data__name": "folder", "data__root": "pets", "partition__scheme": "iid", "federation__clients": 2}
    other = {"sharing__kind": "other-dataset", "sharing__root": "others", "sharing__pool_fraction": 0.0}
    options = [f"--set={key.replace('__', '.').replace('_', '-')}={value}" for key, value in {**other, **ONE}.items()]
    done = CliRunner().invoke(app, ["run", "--name", "one", *tiny_options(**pets), *options])
    assert done.exit_code == 0, done
    found = described(tmp_path / "runs/one")
    assert (found["pool"], found["shared"], list(found["alignment"])) == ([0, 0], [2, 2], ["labels"])
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    again = ["run", "--resume", str(tmp_path / "runs/one"), "--set", "federation.rounds=2"]
    done = CliRunner().invoke(app, again)
    assert done.exit_code == 0, done
    assert read_json(tmp_path / "runs/one/config.json", "")["sharing"]["root"] == str(tmp_path / "others")
    Image.new("RGB", (40, 30)).save(tmp_path / "others" / "cat" / "2.png")
    Image.new("RGB", (40, 30)).save(tmp_path / "others" / "cat" / "3.png")
    for number in range(5):
        Image.new("RGB", (40, 30)).save(tmp_path / "others" / "dog" / f"{number}.png")
    done = CliRunner().invoke(app, [*again[:-1], "federation.rounds=3"])
    assert "sharing.root contains other images" in str(done.exception)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (
            {"sharing__kind": "averaged"},
            "sharing.average = 4: sharing.fraction = 0.4 takes only 1 image of class bar from the pool; lower "
            "sharing.average to 1 or less",
        ),
        (
            {"sharing__kind": "distilled"},
            "sharing.per-class = 10: sharing.fraction = 0.4 takes only 1 image of class",
        ),
        ({"sharing__kind": "other-dataset"}, "sharing.root is empty: sharing.kind = other-dataset sends images of an"),
        ({"sharing__kind": "other-dataset", "sharing__root": "nowhere"}, "sharing.root: no folder "),
    ],
)
def test_a_mistake_is_one_line_before_clients_are_asked(tmp_path: Path, changes: Flat, told: str) -> None:
    with pytest.raises(FedShieldError) as caught:
        run(tmp_path, "none", **changes)
    assert str(caught.value).startswith(told), caught.value
    assert not (tmp_path / "none").exists()


def test_the_servers_own_uses_keep_real_images_and_say_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "fedshield")
    changes: Flat = {**ONE, **KINDS["noised"], "sharing__warm_start_epochs": 1, "train__local_epochs": 0}
    first = run(tmp_path, "first", **changes)
    other = run(tmp_path, "other", **changes, sharing__noise=0.5)
    assert same(weights(first), weights(other))  # without local training, only the pool has been trained on
    assert described(first)["shared-sha256"] != described(other)["shared-sha256"]
    assert "changes only what clients receive: sharing.warm-start-epochs = 1 still uses real images" in caplog.text
    none = run(tmp_path, "none", **ONE, sharing__kind="noised", sharing__fraction=0.0, train__local_epochs=0)
    assert "sharing.kind = noised has no effect: sharing.fraction = 0" in caplog.text
    assert "alignment" not in described(none)


def test_the_pool_at_the_server_stays_what_it_is() -> None:
    plain, noised = (server_data(tiny_config(**KINDS[kind])) for kind in ("images", "noised"))
    assert np.array_equal(plain.pool.images, noised.pool.images)
