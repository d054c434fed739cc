"""The run directory: nothing finished is lost, and nothing foreign is continued."""

import json
import logging
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import torch

from common.config.schema import RunConfig
from common.errors import DeadEndError, FedShieldError
from common.files import append_json_line, read_json_lines
from common.paths import ROOT
from server.run_directory.checkpoint import load_model, selected_model
from server.run_directory.index import read_checkpoint
from server.run_directory.reader import CENTRALIZED, FEDERATION, Kind, read_config, read_kind, read_metrics
from server.run_directory.restored import changed_keys, stored_config
from server.run_directory.writer import RunDir, finished_run
from tests.helpers.settings import tiny_config

ROUND = {"seconds": 1.0, "evaluation": None}
STATE = {"weight": torch.arange(6.0).view(2, 3), "count": torch.tensor(3)}


def config(tmp_path: Path, **changes: object) -> RunConfig:
    return tiny_config(results__dir=str(tmp_path), results__name="run", **changes)


def with_rounds(tmp_path: Path, rounds: int) -> Path:
    run = RunDir.open(config(tmp_path))
    for server_round in range(1, rounds + 1):
        run.append_metrics({"round": server_round, **ROUND})
        run.save_checkpoint(server_round, {**STATE, "count": torch.tensor(server_round)})
    run.close()
    return run.path


def resumed(tmp_path: Path, **changes: object) -> RunDir:
    return RunDir.open(config(tmp_path, results__resume=str(tmp_path / "run"), federation__rounds=9, **changes))


def listen(caplog: pytest.LogCaptureFixture) -> None:
    """Hear what is logged, whatever another test has done to the log."""
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")


@contextmanager
def no_space(size: int) -> Iterator[None]:
    """Let no file become larger than ``size`` bytes: like a full disk, except for the error's number."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_checkpoint_gives_the_same_tensors_back_and_only_the_last_two_are_kept(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 3)
    run = resumed(tmp_path)
    state = run.load_checkpoint()
    assert run.completed_rounds == 3
    assert state is not None
    assert torch.equal(state["weight"], STATE["weight"])
    assert state["count"].dtype == torch.int64
    assert state["count"].item() == 3
    models = ["model-0002.safetensors", "model-0003.safetensors"]
    assert sorted(os.listdir(path / "checkpoint")) == ["checkpoint.json", *models, "previous.json"]


def test_rounds_after_the_checkpoint_and_a_half_line_are_dropped_on_resume(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 2)
    with (path / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"round": 3, **ROUND}) + '\n{"rou')
    assert [record["round"] for record in read_metrics(path)] == [1, 2, 3]
    run = resumed(tmp_path)
    assert run.completed_rounds == 2
    assert [json.loads(line)["round"] for line in (path / "metrics.jsonl").read_text().splitlines()] == [1, 2]


def test_a_rounds_line_is_on_the_disk_before_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced, sync = list[str](), os.fsync

    def note(number: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{number}")).name.partition(".")[0])
        sync(number)

    run = RunDir.open(config(tmp_path))
    monkeypatch.setattr(os, "fsync", note)
    save(run, 1)
    assert synced == ["metrics", "run", "model-0001", "checkpoint", "checkpoint", "checkpoint"]  # files and folders


@pytest.mark.parametrize(
    ("rounds", "told", "left"),
    [
        ([1, 2, 3, 6], "has no line for round 4 to 5", [1, 2, 3, 6]),
        ([2, 3, 4], "has no line for round 1, 5 to 6", [2, 3, 4]),
        ([1, 2, 2, 3, 4, 5, 6], "has several lines for round 2", [1, 2, 3, 4, 5, 6]),
        ([1, 3, 2, 4, 6, 5, 7], "is not in order", [1, 2, 3, 4, 5, 6]),
        ([], "has no line for round 1 to 6", []),
    ],
)
def test_rounds_that_are_not_where_they_belong_are_told_on_resume(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rounds: list[int], told: str, left: list[int]
) -> None:
    path = with_rounds(tmp_path, 6)
    lines = [{"round": number, **ROUND, "seconds": float(place)} for place, number in enumerate(rounds)]
    (path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    listen(caplog)
    run = resumed(tmp_path)
    assert f"{path}: metrics.jsonl {told}; the model is intact" in caplog.text
    found = run.metrics()
    assert [line["round"] for line in found] == left
    assert run.completed_rounds == 6
    if rounds.count(2) == 2:
        assert found[1]["seconds"] == 2  # the last of them


def test_a_checkpoint_cut_short_while_it_is_written_leaves_the_last_one(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    (path / "checkpoint" / "model-0002.safetensors.partial").write_bytes(b"half")
    (path / "checkpoint" / "model-0002.safetensors").write_bytes(b"whole, but not yet named")
    run = resumed(tmp_path)
    state = run.load_checkpoint()
    assert run.completed_rounds == 1
    assert state is not None
    assert state["count"].item() == 1


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    with_rounds(tmp_path, 1)
    with pytest.raises(
        FedShieldError,
        match=r"run: contains another run; choose another results\.name, or continue it with: fedshield run --resume",
    ):
        RunDir.open(config(tmp_path))


def test_a_run_that_ended_before_its_first_round_may_start_again(tmp_path: Path) -> None:
    RunDir.open(config(tmp_path)).close()
    assert RunDir.open(config(tmp_path, seed=2)).completed_rounds == 0


# Begins as a run does, in one process after another, each of which ends, without a word, before the first, the second,
# the third ... operation on files in its directory; after each of them the same command runs, through its first round.
KILLED = """
import os, shutil, sys
from pathlib import Path
from server.run_directory.writer import RunDir
from server.monitoring.observers import watching
from tests.unit.server.test_rundir import ROUND, STATE, config
import torch.utils.tensorboard

place = Path(sys.argv[1])
given = config(place.parent, results__trackers="tensorboard", model__name=f"{place.parent}/own.py:network")

def kill_after(left):
    def hook(event, arguments):
        nonlocal left
        changes = event in ("os.mkdir", "os.rename", "os.remove") or (
            event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if changes and str(arguments[0]).startswith(str(place)):
            left -= 1
            if left < 0:
                os._exit(9)
    sys.addaudithook(hook)

def begin(left):
    if left is not None:
        kill_after(left)
    with RunDir.open(given) as run, watching(given, run):
        run.write_environment({"packages": {}})
        run.write_partition({"classes": ["cat"], "clients": [[1]]})
        if left is None:
            run.append_metrics({"round": 1, **ROUND})
            run.save_checkpoint(1, STATE)

def in_a_process(left):
    if not (child := os.fork()):
        begin(left)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

for left in range(99):
    code = in_a_process(left)
    print(code, *(path.relative_to(place) for path in place.rglob("*")), flush=True)
    assert in_a_process(None) == 0
    assert not list(place.rglob("*partial"))
    shutil.rmtree(place)
    if code == 0:
        break
"""


def test_a_run_that_is_killed_as_it_begins_starts_again_by_the_same_command(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("def network(classes):\n    ...\n")
    command = [sys.executable, "-c", KILLED, str(tmp_path / "run")]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    codes = [line.split()[0] for line in done.stdout.splitlines()]
    assert len(codes) > 15
    assert codes == ["9"] * (len(codes) - 1) + ["0"]
    assert any(".partial" in line for line in done.stdout.splitlines())


def test_a_folder_with_other_files_is_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("")
    with pytest.raises(FedShieldError, match=r"run: contains other files; choose another results\.name"):
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
    with pytest.raises(FedShieldError, match=r"data\.root contains other images than at the start of the run"):
        run.write_partition({"classes": ["cat", "dog"], "clients": [[2, 1]]})


def test_a_finished_run_says_so_and_can_be_made_longer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    listen(caplog)
    path = with_rounds(tmp_path, 2)
    done = config(tmp_path, results__resume=str(tmp_path / "run"))
    run = RunDir.open(done)  # its final evaluation is still missing
    assert finished_run(done) is None
    run.write_json("summary.json", {})
    run.close()
    before = {file: file.read_bytes() for file in path.rglob("*") if file.is_file()}
    assert finished_run(done) == path
    advice = f"raise federation.rounds to continue, or evaluate it with: fedshield evaluate {path}"
    assert f"All 2 rounds are done; {advice}" in caplog.text
    assert {file: file.read_bytes() for file in path.rglob("*") if file.is_file()} == before
    other = config(tmp_path, results__resume=str(path), evaluate__final_attacks="fgsm")
    with pytest.raises(FedShieldError, match=r"evaluate\.final-attacks = 'fgsm': all 2 rounds are done; .*evaluate it"):
        finished_run(other)
    longer = config(tmp_path, results__resume=str(path), federation__rounds=9)
    assert finished_run(longer) is None
    assert resumed(tmp_path).completed_rounds == 2
    assert not (path / "summary.json").exists()


def test_damage_is_named(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    model = path / "checkpoint" / "model-0001.safetensors"
    content = model.read_bytes()
    model.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(FedShieldError, match=r"model-0001\.safetensors: damaged \(wrong SHA-256\)"):
        resumed(tmp_path)
    model.unlink()
    with pytest.raises(FedShieldError, match=r"model-0001\.safetensors: No such file"):
        resumed(tmp_path)
    (path / "metrics.jsonl").write_text('{"rou\n{"round": 1}\n')
    with pytest.raises(FedShieldError, match=r"metrics\.jsonl: line 1 is damaged"):
        read_metrics(path)
    (path / "config.json").write_text("{")
    with pytest.raises(FedShieldError, match=r"config\.json: damaged \(not valid JSON\)"):
        resumed(tmp_path)
    with pytest.raises(FedShieldError, match=r"config\.json: not found; is this a run directory\?"):
        RunDir.open(config(tmp_path, results__resume=str(tmp_path / "nothing")))


@pytest.mark.parametrize("file", ["checkpoint.json", "model-0003.safetensors"])
@pytest.mark.parametrize("missing", [False, True])
def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, file: str, missing: bool
) -> None:
    listen(caplog)
    run = RunDir.open(config(tmp_path))
    for number in (1, 2, 3):
        save(run, number)
    run.close()
    place = run.path / "checkpoint" / file
    cut = place.read_bytes()[:-5]
    place.unlink()
    if not missing:
        place.write_bytes(cut)
    run = resumed(tmp_path)
    assert run.completed_rounds == 2
    (line,) = caplog.text.splitlines()
    assert file in line
    assert line.endswith("continuing from the one before, number 2")
    assert [record["round"] for record in run.metrics()] == [1, 2]
    state = run.load_checkpoint()
    assert state is not None
    assert state["weight"].item() == 2
    save(run, 3)
    run.close()
    assert resumed(tmp_path).completed_rounds == 3
    assert len(caplog.text.splitlines()) == 1


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(FedShieldError, match=r"file/run: Not a directory; a file has the place of a folder"):
        RunDir.open(tiny_config(results__dir=str(tmp_path / "file"), results__name="run"))
    with pytest.raises(FedShieldError, match=r"^/proc/run: .*(No such file|denied|not permitted)"):
        RunDir.open(tiny_config(results__dir="/proc", results__name="run"))


def test_a_full_disk_is_one_line_and_the_last_checkpoint_stays(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    run = resumed(tmp_path)
    lines = (path / "metrics.jsonl").read_bytes()
    with no_space(len(lines) + 9):
        with pytest.raises(FedShieldError, match=r"metrics\.jsonl: File too large; free some disk space"):
            run.append_metrics({"round": 2})
        run.save_checkpoint(2, STATE)
        with pytest.raises(FedShieldError, match=r"model-0002\.safetensors: File too large; free some disk space"):
            run.save_checkpoint(3, STATE)
    assert [record["round"] for record in read_metrics(path)] == [1]  # but for half a line
    assert run.completed_rounds == 1
    assert json.loads((path / "checkpoint" / "checkpoint.json").read_text())["round"] == 1
    assert not list(path.rglob("*.partial"))
    state = run.load_checkpoint()
    assert state is not None
    assert state["count"].item() == 1


@pytest.mark.parametrize(
    ("done", "error", "told"),
    [
        (0, KeyboardInterrupt(), "Stopped after round 0; continue with: fedshield run --resume {path}"),
        (0, FedShieldError(""), "Stopped before the end of round 1; fix the cause and start again in the same way"),
        (0, DeadEndError(""), "Stopped before the end of round 1; fix the cause and start again in the same way"),
        (2, KeyboardInterrupt(), "Stopped after round 2; continue with: fedshield run --resume {path}"),
        (
            2,
            FedShieldError(""),
            "Stopped after round 2; fix the cause and continue with: fedshield run --resume {path}",
        ),
        (2, OSError(), "Stopped after round 2; fix the cause and continue with: fedshield run --resume {path}"),
        (2, DeadEndError(""), "Stopped after round 2; if you resume it as it is, it stops there again"),
    ],
)
def test_only_what_helps_is_offered_to_a_run_that_has_stopped(
    tmp_path: Path, done: int, error: BaseException, told: str, caplog: pytest.LogCaptureFixture
) -> None:
    listen(caplog)
    path = with_rounds(tmp_path, done)
    with pytest.raises(type(error)), resumed(tmp_path):
        raise error
    assert caplog.messages[-1] == told.format(path=path)


def test_runs_without_a_name_that_begin_at_once_have_a_directory_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        begin = partial(RunDir.open, tiny_config(results__dir=str(tmp_path / "runs")))
        runs = [future.result() for future in [pool.submit(begin) for _ in range(8)]]
    assert len({run.path for run in runs}) == 8
    names = sorted(run.path.name for run in runs)
    assert re.fullmatch(r"\d{8}-\d{6}-shapes10-seed1", names[0])
    assert f"{names[0]}-2" in names
    assert all((run.path / "config.json").exists() for run in runs)
    for run in runs:
        run.close()


def test_two_processes_do_not_write_to_one_run(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1)
    run = resumed(tmp_path)
    code = (
        "import sys; sys.path.insert(0, '.')\n"
        "from pathlib import Path; from tests.unit.server.test_rundir import resumed\n"
        f"resumed(Path({str(tmp_path)!r}))"
    )
    other = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True, timeout=120)
    assert "another process is writing to this run" in other.stderr
    run.close()
    assert resumed(tmp_path).path == path


def save(run: RunDir, number: int, worst: float | None = None) -> None:
    """Finish a round whose one weight is its number; with a figure, it is the best so far."""
    validation = None if worst is None else {"worst": {"value": worst}, "natural": {"value": 0.5}}
    run.append_metrics({"round": number, **ROUND})
    run.save_checkpoint(number, {"weight": torch.tensor([float(number)])}, validation)
    run.wait()


def files(path: Path) -> list[str]:
    return sorted(os.listdir(path / "checkpoint"))


def test_the_best_model_is_kept_beside_the_last_and_on_resume(tmp_path: Path) -> None:
    run = RunDir.open(config(tmp_path))
    save(run, 1, 0.1)
    assert files(run.path) == ["checkpoint.json", "model-0001.safetensors"]
    save(run, 2, 0.3)
    save(run, 3)
    save(run, 4)
    models = [f"model-{number:04}.safetensors" for number in (2, 3, 4)]  # the best, the one before, the last
    assert files(run.path) == ["checkpoint.json", *models, "previous.json"]
    run.close()
    run = resumed(tmp_path)
    assert run.completed_rounds == 4
    state = run.load_checkpoint()
    assert state is not None
    assert state["weight"].item() == 4
    number, state = selected_model(run.path)
    assert (number, state["weight"].item()) == (2, 2)
    save(run, 5)
    checkpoint = read_checkpoint(run.path)
    assert checkpoint is not None
    assert checkpoint["round"] == 5
    assert checkpoint["best"]["round"] == 2
    assert checkpoint["best"]["validation"]["worst"] == {"value": 0.3}
    assert load_model(run.path, checkpoint["best"])["weight"].item() == 2
    (run.path / "checkpoint" / "model-0006.safetensors").write_bytes(b"left by a crash")
    (run.path / "checkpoint" / "notes.txt").write_text("the user's own")
    save(run, 7, 0.4)
    models = [f"model-{number:04}.safetensors" for number in (2, 5, 7)]  # the best of the one before, that, the last
    assert files(run.path) == ["checkpoint.json", *models, "notes.txt", "previous.json"]
    assert selected_model(run.path)[0] == 7


def test_without_a_best_model_the_last_is_chosen_and_without_any_it_is_said(tmp_path: Path) -> None:
    run = RunDir.open(config(tmp_path))
    with pytest.raises(FedShieldError, match=r"run: has no checkpoint; no round of this run was finished"):
        selected_model(run.path)
    save(run, 1)
    save(run, 2)
    assert selected_model(run.path)[0] == 2


def test_momenta_come_back_in_their_order_and_damage_to_them_is_named(tmp_path: Path) -> None:
    momenta = [torch.full((2, 2), float(place)) for place in range(12)]  # "10" sorts before "2"
    with RunDir.open(config(tmp_path), CENTRALIZED) as run:
        run.save_checkpoint(1, STATE, None, [torch.zeros(2, 2) for _ in momenta])
        run.save_checkpoint(2, STATE, None, momenta)
    kept = [f"{kind}-000{number}.safetensors" for kind in ("model", "optimizer") for number in (1, 2)]
    assert files(run.path) == ["checkpoint.json", *kept, "previous.json"]
    again = RunDir.open(config(tmp_path, results__resume=str(run.path)), CENTRALIZED)
    found = again.load_momenta()
    assert len(found) == 12
    assert all(torch.equal(one, other) for one, other in zip(found, momenta, strict=True))
    state = again.load_checkpoint()
    assert state is not None
    assert state.keys() == STATE.keys()
    optimizer = run.path / "checkpoint" / "optimizer-0002.safetensors"
    optimizer.write_bytes(optimizer.read_bytes()[:-1] + b"!")
    with pytest.raises(FedShieldError, match=r"optimizer-0002\.safetensors: damaged \(wrong SHA-256\)"):
        again.load_momenta()


def test_a_federation_and_centralized_training_do_not_continue_each_other(tmp_path: Path) -> None:
    there = config(tmp_path, results__resume=str(tmp_path / "run"))
    for kind, other in ((FEDERATION, CENTRALIZED), (CENTRALIZED, FEDERATION)):
        RunDir.open(config(tmp_path), kind).close()  # nothing is finished yet, so the place may be taken again
        assert read_kind(tmp_path / "run") == kind
        with pytest.raises(FedShieldError) as caught:
            RunDir.open(there, other)
        assert str(caught.value) == (
            f"{tmp_path}/run: belongs to {kind.command}; continue it with: {kind.command} --resume {tmp_path}/run"
        )
    (tmp_path / "run" / "environment.json").write_text('{"command": "fedshield run"}')  # as earlier versions wrote it
    assert read_kind(tmp_path / "run") == FEDERATION


@pytest.mark.parametrize("schedule", ["milestones", "cosine", "cyclic"])
@pytest.mark.parametrize(("kind", "key"), [(FEDERATION, "federation__rounds"), (CENTRALIZED, "centralized__epochs")])
def test_the_length_may_change_only_where_the_rates_before_stay_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: Kind, key: str, schedule: str
) -> None:
    def opened(length: int, resume: bool = True) -> RunDir:
        place = {"results__resume": str(tmp_path / "run")} if resume else {}
        return RunDir.open(config(tmp_path, train__schedule=schedule, **{key: length}, **place), kind)

    dotted = key.replace("__", ".")
    opened(9, resume=False).close()
    run = opened(2)  # nothing is done yet: any length will do
    save(run, 1)
    run.close()
    if schedule == "milestones":
        opened(3).close()
    else:
        with pytest.raises(FedShieldError) as caught:
            opened(3)
        assert f"{dotted} = 2 there, 3 now: with train.schedule = {schedule} the {kind.unit}s" in str(caught.value)
        assert f"resume with {dotted}=2, or start a new run" in str(caught.value)
    run = opened(2)
    save(run, 2)
    run.write_json("summary.json", {})
    run.close()
    listen(caplog)
    assert opened(2).finished
    advice = f"raise {dotted} to continue, or " if schedule == "milestones" else ""
    assert f"All 2 {kind.unit}s are done; {advice}evaluate it with: fedshield evaluate" in caplog.text


def test_a_line_that_was_cut_short_does_not_take_the_next_one_with_it(tmp_path: Path) -> None:
    path = tmp_path / "evaluations.jsonl"
    append_json_line(path, {"round": 1})
    with path.open("a") as file:
        file.write('{"at": "2025')
    append_json_line(path, {"round": 2})
    assert read_json_lines(path) == [{"round": 1}, {"round": 2}]


@pytest.mark.parametrize(
    ("content", "lack"),
    [
        ("{}", "round: field required"),
        ('{"round": 1}', "model: field required"),
        ('{"round": "x", "model": "m", "sha256": "s"}', "round: input should be a valid integer"),
        ('{"round": 1, "model": "m", "sha256": "s", "best": {}}', "best.round: field required"),
    ],
)
def test_a_checkpoint_that_lacks_something_is_damaged_not_absent(tmp_path: Path, content: str, lack: str) -> None:
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "checkpoint.json").write_text(content)
    with pytest.raises(FedShieldError, match=rf"checkpoint.json: damaged, or of another version .* \({lack}\)"):
        read_checkpoint(tmp_path)


def test_a_run_of_an_earlier_version_has_the_defaults_of_the_keys_it_lacks(tmp_path: Path) -> None:
    RunDir.open(tiny_config(results__dir=str(tmp_path), results__name="old")).close()
    path = tmp_path / "old"
    stored = json.loads((path / "config.json").read_text())
    del stored["loss"]["beta"], stored["data"]["validation-fraction"]
    (path / "config.json").write_text(json.dumps(stored))
    assert stored_config(path, {}, "options").loss.beta == 6.0
    resumed = {"results__dir": str(tmp_path), "results__resume": str(path)}
    with pytest.raises(FedShieldError, match=r"loss.beta = 6.0 there, 1.0 now"):
        RunDir.open(tiny_config(loss__beta=1.0, **resumed))
    RunDir.open(tiny_config(**resumed)).close()


def test_a_run_that_is_older_than_a_key_keeps_what_it_did_then(tmp_path: Path) -> None:
    path = with_rounds(tmp_path, 1) / "config.json"
    kept = json.loads(path.read_text())
    assert kept["attack"]["fast"] is True
    del kept["attack"]["fast"]
    path.write_text(json.dumps(kept))
    assert stored_config(path.parent, {}, "test").attack.fast is False
    kept["attack"]["fast"] = True
    path.write_text(json.dumps(kept))
    assert stored_config(path.parent, {}, "test").attack.fast is True


@pytest.mark.parametrize(("loss", "absent"), [("calfat", 0.0), ("pgd-at", 1.0)])
def test_a_run_of_calfat_keeps_the_calibration_of_its_time(tmp_path: Path, loss: str, absent: float) -> None:
    path = with_rounds(tmp_path, 1) / "config.json"
    kept = json.loads(path.read_text())
    kept["loss"] = {"name": loss, "beta": 6.0}
    path.write_text(json.dumps(kept))
    stored = stored_config(path.parent, {}, "test").loss
    assert (stored.calfat_absent, stored.calfat_scale, stored.calfat_attack) == (absent, 1.0, "kl")
    kept["loss"] |= {"calfat-absent": 2.0, "calfat-scale": 3.0}
    path.write_text(json.dumps(kept))
    stored = stored_config(path.parent, {}, "test").loss
    assert (stored.calfat_absent, stored.calfat_scale) == (2.0, 3.0)


@pytest.mark.parametrize(("name", "flip"), [("svhn", "on"), ("folder", "auto"), ("cifar10", "auto")])
def test_a_run_that_is_older_than_the_choice_goes_on_mirroring(tmp_path: Path, name: str, flip: str) -> None:
    path = RunDir.open(config(tmp_path, data__name=name)).path / "config.json"
    kept = json.loads(path.read_text())
    del kept["train"]["flip"]
    path.write_text(json.dumps(kept))
    stored = stored_config(path.parent, {}, "test")
    assert (stored.train.flip, stored.flips) == (flip, True)
    # As it is continued with the same settings from elsewhere, which name no flip; svhn's are no longer mirrored then.
    changed = changed_keys(read_config(path.parent), config(tmp_path, data__name=name))
    assert changed == ({"train.flip": "on"} if name == "svhn" else {})
