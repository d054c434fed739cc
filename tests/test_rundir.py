"""The run directory: nothing finished is lost, and nothing foreign is continued."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from common.config import RunConfig
from common.errors import FedShieldError
from server.rundir import RunDir, read_metrics
from tests.conftest import tiny_config

STATE = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}


def config(tmp_path: Path, **changes: object) -> RunConfig:
    return tiny_config(results__dir=str(tmp_path), results__name="run", **changes)


def with_rounds(tmp_path: Path, rounds: int) -> Path:
    run = RunDir.open(config(tmp_path))
    for server_round in range(1, rounds + 1):
        run.append_metrics({"round": server_round})
        run.save_checkpoint(server_round, {**STATE, "count": torch.tensor(server_round)})
    run.close()
    return run.path


def resumed(tmp_path: Path, **changes: object) -> RunDir:
    return RunDir.open(config(tmp_path, results__resume=str(tmp_path / "run"), federation__rounds=9, **changes))


def test_checkpoint_gives_the_same_tensors_back_and_only_one_is_kept(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 3)
    run = resumed(tmp_path)
    state = run.load_checkpoint()
    assert run.done == 3
    assert state is not None
    assert torch.equal(state["weight"], STATE["weight"])
    assert state["count"].dtype == torch.int64
    assert state["count"].item() == 3
    assert sorted(os.listdir(path / "checkpoint")) == ["checkpoint.json", "model-0003.safetensors"]


def test_rounds_after_the_checkpoint_and_a_half_line_are_dropped_on_resume(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 2)
    with (path / "metrics.jsonl").open("a") as file:
        file.write('{"round": 3}\n{"rou')
    assert [record["round"] for record in read_metrics(path)] == [1, 2, 3]
    run = resumed(tmp_path)
    assert run.done == 2
    assert (path / "metrics.jsonl").read_text() == '{"round": 1}\n{"round": 2}\n'


def test_a_checkpoint_cut_short_while_it_is_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    (path / "checkpoint" / "model-0002.safetensors.partial").write_bytes(b"half")
    (path / "checkpoint" / "model-0002.safetensors").write_bytes(b"whole, but not yet named")
    run = resumed(tmp_path)
    state = run.load_checkpoint()
    assert run.done == 1
    assert state is not None
    assert state["count"].item() == 1


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    with_rounds(tmp_path, 1)
    with pytest.raises(
        FedShieldError, match=r"run: holds another run; choose another --name, or continue it with --resume"
    ):
        RunDir.open(config(tmp_path))


def test_a_run_that_ended_before_its_first_round_may_start_again(tmp_path: Path) -> None:
    RunDir.open(config(tmp_path)).close()
    assert RunDir.open(config(tmp_path, seed=2)).done == 0


def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(FedShieldError, match=r"run: holds other files; choose another --name"):
        RunDir.open(config(tmp_path))
    assert not (tmp_path / "run" / "config.json").exists()


def test_another_configuration_is_not_continued(tmp_path: Path) -> None:
    with_rounds(tmp_path, 1)
    with pytest.raises(FedShieldError) as caught:
        resumed(tmp_path, model__activation="tanh")
    assert "belongs to another configuration: model.activation = 'relu' there, 'tanh' now" in str(caught.value)


def test_other_data_is_not_continued_with(tmp_path: Path) -> None:
    run = RunDir.open(config(tmp_path))
    run.write_partition({"classes": ["cat", "dog"], "clients": [[1, 2]]})
    run.save_checkpoint(1, STATE)
    run.close()
    run = resumed(tmp_path)
    run.write_partition({"classes": ["cat", "dog"], "clients": [[1, 2]]})
    with pytest.raises(FedShieldError, match=r"data\.root holds other images than those that the run began with"):
        run.write_partition({"classes": ["cat", "dog"], "clients": [[2, 1]]})


def test_a_finished_run_says_so_and_can_be_made_longer(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 2)
    done = config(tmp_path, results__resume=str(tmp_path / "run"))
    run = RunDir.open(done)  # its final evaluation is still missing
    run.write_json("summary.json", {})
    run.close()
    with pytest.raises(FedShieldError, match=r"all 2 rounds are done; raise federation\.rounds to go on"):
        RunDir.open(done)
    assert resumed(tmp_path).done == 2
    assert not (path / "summary.json").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    model = path / "checkpoint" / "model-0001.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    run = resumed(tmp_path)
    with pytest.raises(FedShieldError, match=r"model-0001\.safetensors: damaged \(wrong SHA-256\)"):
        run.load_checkpoint()
    run.close()
    model.unlink()
    run = resumed(tmp_path)
    with pytest.raises(FedShieldError, match=r"model-0001\.safetensors: No such file"):
        run.load_checkpoint()
    run.close()
    (path / "metrics.jsonl").write_text('{"rou\n{"round": 1}\n')
    with pytest.raises(FedShieldError, match=r"metrics\.jsonl: line 1 is damaged"):
        read_metrics(path)
    (path / "config.json").write_text("{")
    with pytest.raises(FedShieldError, match=r"config\.json: damaged \(not valid JSON\)"):
        resumed(tmp_path)
    with pytest.raises(FedShieldError, match=r"config\.json: not there; is this a run directory\?"):
        RunDir.open(config(tmp_path, results__resume=str(tmp_path / "nothing")))


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedShieldError, match=r"file/run: Not a directory; check the path"):
        RunDir.open(tiny_config(results__dir=str(tmp_path / "file"), results__name="run"))
    with pytest.raises(FedShieldError, match=r"^/proc/run: .*(No such file|denied|not permitted)"):
        RunDir.open(tiny_config(results__dir="/proc", results__name="run"))


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    run = resumed(tmp_path)
    (path / "metrics.jsonl").unlink()
    (path / "metrics.jsonl").symlink_to("/dev/full")  # the kernel answers every write with "no space left"
    with pytest.raises(FedShieldError, match=r"metrics\.jsonl: No space left on device; free some disk space"):
        run.append_metrics({"round": 2})
    (path / "checkpoint" / "model-0002.safetensors.partial").symlink_to("/dev/full")
    run.save_checkpoint(2, STATE)
    with pytest.raises(FedShieldError, match=r"model-0002\.safetensors: No space left on device"):
        run.save_checkpoint(3, STATE)
    assert run.done == 1
    assert json.loads((path / "checkpoint" / "checkpoint.json").read_text())["round"] == 1
    assert not list(path.rglob("*.partial"))
    state = run.load_checkpoint()
    assert state is not None
    assert state["count"].item() == 1


def test_two_processes_do_not_write_to_one_run(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    run = resumed(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.'); from pathlib import Path; from tests.test_rundir import resumed\n"
        f"resumed(Path({str(tmp_path)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert "another process is writing to this run" in other.stderr
    run.close()
    assert resumed(tmp_path).path == path
