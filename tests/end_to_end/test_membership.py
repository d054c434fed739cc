"""``fedshield privacy`` on real runs: whom it asks about, what it writes, shows and refuses."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F  # noqa: N812

from common import factory
from common.data.split_directories import write_split
from common.errors import FedShieldError
from common.evaluation.membership import area_under_curve
from server.membership import measure_privacy
from server.repair import remedies
from server.run_directory.checkpoint import fit_state, selected_model, write_checkpoint
from server.run_directory.privacy import read_privacy
from server.run_directory.restored import stored_config
from server.run_images import run_images
from server.shadows import shadow_plans
from simulations.centralized import train_centrally
from simulations.export.formats import export_run
from simulations.reports.html.write import write_report
from simulations.reports.privacy import privacy_sheet
from tests.helpers.images import make_folder
from tests.helpers.program import fedshield
from tests.helpers.runs import run
from tests.helpers.settings import tiny_config

pytestmark = pytest.mark.usefixtures("one_thread")

SETTINGS = {"attack__name": "none", "train__learning_rate": 0.1, "sharing__fraction": 1.0}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("trained"), "one", **SETTINGS)


@pytest.fixture
def one(trained: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained, tmp_path / "one"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_groups_are_the_images_that_were_shared_and_those_of_the_clients(one: Path) -> None:
    record, file = measure_privacy(one, {}, examples=0, shadows=0)
    assert file == one / "privacy.json"
    assert read_privacy(one) == record == json.loads(file.read_text())
    config = stored_config(one, {}, "test")
    splits, division = factory.prepare_data(config)
    own = np.concatenate(division.shards)
    pool, clients = record["groups"]["pool"], record["groups"]["clients"]
    assert (pool["images"], pool["n"]) == (len(division.shared), len(division.shared))
    assert (clients["images"], clients["n"]) == (len(own), len(own))
    # All images that were trained on, with the loss of the cross-entropy; which others are drawn is the seed's choice.
    model = factory.make_model(config, 10).eval()
    fit_state(model, selected_model(one)[1], one)
    right = []
    with torch.no_grad():
        for rows in (division.shared, own):
            data = splits.train.take(rows)
            right.append((model(torch.from_numpy(data.images).float() / 255).argmax(1).numpy() == data.labels).mean())
    assert [group["members"]["natural"] for group in (pool, clients)] == right
    assert list(pool["attacks"]) == ["loss", "adversarial-loss"]
    assert pool["auc"] == max(found["auc"] for found in pool["attacks"].values())


def test_the_area_is_that_of_the_losses(one: Path) -> None:
    record, _ = measure_privacy(one, {}, examples=0, shadows=0)
    config = stored_config(one, {}, "test")
    known = run_images(one, config, 2)
    model = factory.make_model(config, 10).eval()
    fit_state(model, selected_model(one)[1], one)
    losses = []
    test = np.arange(len(known.train.labels), len(known.train.labels) + len(known.test.labels))
    for rows in (known.groups["clients"].rows, test):
        data = known.take(rows)
        with torch.no_grad():
            logits = model(torch.from_numpy(data.images).float() / 255)
        losses.append(F.cross_entropy(logits, torch.from_numpy(data.labels), reduction="none").double().numpy())
    # As many test images as members are drawn from all 1,000; the area over all of them is within its interval.
    low, high = record["groups"]["clients"]["attacks"]["loss"]["interval"]
    assert low < area_under_curve(-losses[0], -losses[1]) < high


def test_the_same_seed_gives_the_same_figures_with_lira_too(one: Path) -> None:
    before = one.stat(), sorted(path.name for path in one.iterdir())
    first, _ = measure_privacy(one, {}, examples=40, shadows=2)
    again, _ = measure_privacy(one, {}, examples=40, shadows=2)
    assert {**first, "at": ""} == {**again, "at": ""}
    assert first["shadows"] == {"count": 2, "images": 200, "epochs": 2}
    assert first["groups"]["clients"]["n"] == 40
    assert list(first["groups"]["clients"]["attacks"]) == ["loss", "adversarial-loss", "lira"]
    assert sorted(path.name for path in one.iterdir()) == sorted([*before[1], "privacy.json"])


def test_report_and_card_show_it(one: Path) -> None:
    measure_privacy(one, {}, examples=20, shadows=0)
    page = write_report(one, None).read_text()
    assert "What the model tells about its training images, after round 2" in page
    assert "LiRA was left out (--shadows 0)" in page
    (card,) = (path for path in export_run(one, "safetensors", None) if path.name == "README.md")
    assert "## What the model tells about its training images, after round 2" in card.read_text()
    edit(one / "privacy.json", sha256="0" * 64)  # of another model than the one that is exported
    export_run(one, "safetensors", None)
    assert "training images, after" not in card.read_text()


@pytest.mark.parametrize("kind", ["averaged", "distilled"])
def test_what_is_asked_about_is_what_the_sent_images_were_made_of(kind: str, tmp_path: Path) -> None:
    made = {"sharing__kind": kind, "sharing__average": 2, "sharing__per_class": 1, "sharing__steps": 1}
    path = run(tmp_path, kind, **{**SETTINGS, **made, "federation__rounds": 1})
    record, _ = measure_privacy(path, {}, examples=0, shadows=0)
    assert record["groups"]["pool"]["images"] == len(factory.prepare_data(tiny_config(**SETTINGS))[1].shared)


def test_images_that_repair_has_sent_later_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.repair.treat.REMEDIES", {"divergence": (remedies.share_more,)})
    more = {"repair__enabled": True, "repair__sharing_step": 0.2, "repair__sharing_budget": 0.6, "attack__steps": 1}
    loud = {"train__learning_rate": 5.0, "strategy__update_limit": 0.0, "evaluate__final_attacks": ""}
    path = run(tmp_path, "more", federation__rounds=5, **more, **loud)
    config = stored_config(path, {}, "test")
    pools = [run_images(path, config, last).groups["pool"].rows for last in (4, 5)]
    # Round 4 has shown the trouble; round 5 is the first with more. Of the pool's 40 images 16 were sent, then 24.
    assert [len(rows) for rows in pools] == [16, 24]
    assert {*pools[0]} < {*pools[1]}


def test_another_dataset_with_divided_images_is_not_asked_about(tmp_path: Path) -> None:
    make_folder(tmp_path / "pets", images=20)
    make_folder(tmp_path / "others", images=4)
    pets = {"data__name": "folder", "data__root": str(tmp_path / "pets"), "data__image_size": 16}
    two = {**SETTINGS, **pets, "federation__clients": 2, "partition__scheme": "iid", "federation__rounds": 1}
    write_split(*factory.prepare_data(tiny_config(**two)), tmp_path / "all")
    divided = {**two, "data__name": "split", "data__root": str(tmp_path / "all")}
    others = {"sharing__kind": "other-dataset", "sharing__root": str(tmp_path / "others" / "train")}
    path = run(tmp_path, "others-run", **{**divided, **others})
    record, _ = measure_privacy(path, {}, shadows=0)
    assert list(record["groups"]) == ["clients"]  # the pool itself was not sent
    assert record["notes"] == ["no image of the pool was shared, so none of it was asked about"]


def test_without_sharing_only_the_clients_are_asked_about(tmp_path: Path) -> None:
    path = run(tmp_path, "alone", **{**SETTINGS, "sharing__fraction": 0.0, "federation__fraction": 0.3})
    record, _ = measure_privacy(path, {}, shadows=0)
    (group,) = record["groups"].values()
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    clients = {int(client) for line in lines for client in line["clients"]}
    counts = json.loads((path / "partition.json").read_text())["clients"]
    assert group["images"] == sum(sum(counts[client]) for client in clients) < sum(map(sum, counts))
    assert record["notes"] == ["no image of the pool was shared, so none of it was asked about"]
    # A client of such a run trains in about 0.3 of its rounds, and so does a shadow model.
    assert len(shadow_plans(path, stored_config(path, {}, "test"), 2)) == 1


def test_a_server_of_real_clients_asks_about_its_pool(tmp_path: Path) -> None:
    folder = tmp_path / "all"
    write_split(*factory.prepare_data(tiny_config(**SETTINGS)), folder)
    path = run(tmp_path, "divided", **SETTINGS, data__name="split", data__root=str(folder))
    both, _ = measure_privacy(path, {}, examples=20, shadows=0)
    assert list(both["groups"]) == ["pool", "clients"]
    edit(path / "environment.json", deployed=True)
    shutil.rmtree(folder / "client-3")
    alone, _ = measure_privacy(path, {}, examples=20, shadows=2)
    assert list(alone["groups"]) == ["pool"]
    assert alone["notes"] == [
        "the clients' own images are with the clients, so only those of the pool were asked about"
    ]
    assert alone["groups"]["pool"]["attacks"]["loss"] == both["groups"]["pool"]["attacks"]["loss"]


def test_centralized_training_has_one_group(tmp_path: Path) -> None:
    config = tiny_config(
        **SETTINGS, centralized__epochs=2, results__dir=str(tmp_path), results__name="c", data__validation_fraction=0.1
    )
    path = train_centrally(config)
    record, _ = measure_privacy(path, {}, examples=20, shadows=2)
    (name,) = record["groups"]
    assert (name, record["groups"][name]["images"]) == ("clients", 180)
    assert record["shadows"]["images"] == 180
    assert record["shadows"]["epochs"] == record["round"]
    sheet = privacy_sheet(record, "epoch")
    assert sheet is not None
    assert {row[0] for row in sheet.rows} == {"all training images"}


def test_models_of_the_clients_own_are_not_attacked_which_is_said(tmp_path: Path) -> None:
    path = run(tmp_path, "bn", **{**SETTINGS, "method__name": "fedbn", "federation__rounds": 1})
    record, _ = measure_privacy(path, {}, examples=20, shadows=0)
    (note,) = record["notes"]
    assert note.startswith("the clients have models of their own, which were not attacked")


def test_other_images_are_one_line(one: Path, tmp_path: Path) -> None:
    edit(one / "partition.json", available=5000)
    with pytest.raises(FedShieldError, match=r"partition\.json: available = 5000 there, 4000 here: the images at"):
        measure_privacy(one, {}, shadows=0)
    edit(one / "partition.json", available=4000, sha256="0" * 64)
    with pytest.raises(
        FedShieldError, match=r"partition\.json: sha256 is another here: .* give its images, with --set"
    ):
        measure_privacy(one, {}, shadows=0)


def test_images_that_were_changed_since_are_one_line(tmp_path: Path) -> None:
    root = make_folder(tmp_path / "pets", images=40)
    settings = {**SETTINGS, "data__name": "folder", "data__root": str(root), "data__image_size": 16}
    path = run(tmp_path, "pets-run", **settings, federation__clients=2, partition__scheme="iid")
    record, _ = measure_privacy(path, {}, shadows=0)
    assert record["groups"]["clients"]["n"] == 4  # there are no more test images
    Image.fromarray(np.zeros((16, 16, 3), np.uint8)).save(root / "test" / "cat" / "0.png")
    factory._prepare_data.cache_clear()  # as in another process
    with pytest.raises(FedShieldError, match="test images of the run's last evaluation have other pixels here"):
        measure_privacy(path, {}, shadows=0)


def test_a_model_without_finite_logits_is_named(one: Path, tmp_path: Path) -> None:
    path = shutil.copytree(one, tmp_path / "diverged")
    state = {name: array * torch.nan for name, array in selected_model(path)[1].items()}
    write_checkpoint(path, 2, state)
    with pytest.raises(FedShieldError, match=f"^{path}: its logits are not finite, so it has no confidence"):
        measure_privacy(path, {}, shadows=0)


def test_mistakes_are_one_line_each(one: Path) -> None:
    for arguments, expected in (
        (["--shadows", "3"], "--shadows 3: shadow models are trained in pairs"),
        (
            ["--set", "attack.epsilon-255=4"],
            "--set attack.epsilon-255: the run stays as it was trained; what can be set",
        ),
    ):
        done = fedshield("privacy", str(one), *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith(f"fedshield: {expected}")
        assert done.stderr.count("\n") == 1


def test_the_command_says_what_lira_costs_and_prints_the_table(one: Path) -> None:
    done = fedshield("privacy", str(one), "--examples", "20", "--shadows", "2")
    assert done.returncode == 0, done.stderr
    cost = done.stdout.index("LiRA: training 2 shadow models, each for 2 epochs on 200 images, ")
    assert cost < done.stdout.index("shadow model 2 of 2: ") < done.stdout.index("What the model tells about")
    assert done.stdout.rstrip().endswith("privacy.json")


def test_a_damaged_file_is_one_line(one: Path) -> None:
    (one / "privacy.json").write_text('{"round": 1}')
    with pytest.raises(FedShieldError, match=r"privacy\.json: damaged"):
        read_privacy(one)
