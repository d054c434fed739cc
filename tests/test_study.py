"""Study files and their points; the tables of hand-made results."""

import math
from pathlib import Path

import pytest

from common.config import RunConfig
from common.errors import FedShieldError
from simulations import study_gather
from simulations.study import SWEEPS, Study, config_toml, load_study, points, study_toml
from simulations.study_results import (
    attack_columns,
    read_heading,
    read_labels,
    read_results,
    read_rounds,
    varied,
    write_csv,
)
from simulations.study_tables import accuracy_sheet, difference_sheet, interval, make_tables, spread
from simulations.sweep_jobs import default_jobs, gpus

FILE = """
title = "Two by two"
seeds = [7, 3]
reference = { case = "plain" }

[set]
"federation.rounds" = 4
[set.train]
learning-rate = 0.02

[grid]
"sharing.fraction" = [0, 0.5]
"model.activation" = ["relu", "tanh"]

[[case]]
name = "plain"

[[case]]
name = "CalFAT / 1"
"loss.name" = "calfat"
"""


def study(folder: Path, text: str = FILE) -> Study:
    (folder / "mine.toml").write_text(text)
    return load_study(folder / "mine.toml")


def test_points_come_seed_by_seed_with_names_that_tell_what_varies(tmp_path: Path) -> None:
    found = points(study(tmp_path))
    assert len(found) == 16
    assert [point.seed for point in found] == [7] * 8 + [3] * 8
    assert [point.name for point in found[:5]] == [
        "case=plain,sharing.fraction=0,model.activation=relu-seed7",
        "case=plain,sharing.fraction=0,model.activation=tanh-seed7",
        "case=plain,sharing.fraction=0.5,model.activation=relu-seed7",
        "case=plain,sharing.fraction=0.5,model.activation=tanh-seed7",
        "case=CalFAT_1,sharing.fraction=0,model.activation=relu-seed7",
    ]
    last = found[-1]
    assert last.varied == {"case": "CalFAT / 1", "sharing.fraction": 0.5, "model.activation": "tanh"}
    assert last.label == "case=CalFAT_1,sharing.fraction=0.5,model.activation=tanh"
    flat = last.config.flat()
    assert (flat["seed"], flat["loss.name"], flat["federation.rounds"]) == (3, "calfat", 4)
    assert flat["train.learning-rate"] == 0.02


def test_a_study_of_one_point_is_named_by_its_seeds(tmp_path: Path) -> None:
    assert [(point.name, point.label) for point in points(study(tmp_path, "seeds = [1, 2]"))] == [
        ("seed1", ""),
        ("seed2", ""),
    ]


def test_a_long_name_still_fits_a_file_system(tmp_path: Path) -> None:
    names = [f'"{"x" * 300}{i}"' for i in range(2)]
    text = "seeds = [1]\n" + "".join(f"[[case]]\nname = {name}\n" for name in names)
    found = [point.name for point in points(study(tmp_path, text))]
    assert len(set(found)) == 2
    assert max(map(len, found)) < 200


def test_the_base_lies_under_the_set(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("federation.rounds = 3\nmodel.width = 5\n")
    text = 'base = "base.toml"\nseeds = [1]\n[set]\n"model.width" = 6\n'
    config = points(study(tmp_path, text))[0].config
    assert (config.federation.rounds, config.model.width) == (3, 6)
    preset = points(study(tmp_path, 'base = "cpu-study"\nseeds = [1]'))[0].config
    assert preset.data.root == "data/cifar10-jpeg"


def test_the_resolved_study_has_the_same_points(tmp_path: Path) -> None:
    first = study(tmp_path)
    (tmp_path / "again").mkdir()
    again = study(tmp_path / "again", study_toml(first))
    assert points(again) == points(first)
    assert (again.title, again.reference) == (first.title, first.reference)
    assert read_heading(tmp_path).title == tmp_path.name
    (tmp_path / "study.toml").write_text(study_toml(first))
    assert read_heading(tmp_path).title == "Two by two"
    assert read_heading(tmp_path).reference == {"case": "plain"}


def test_a_point_is_a_configuration_file(tmp_path: Path) -> None:
    point = points(study(tmp_path))[-1]
    (tmp_path / "point.toml").write_text(config_toml(point.config))
    text = 'base = "point.toml"\nseeds = [3]'
    again: RunConfig = points(study(tmp_path, text))[0].config
    assert again == point.config


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_shipped_studies_parse(scale: str) -> None:
    shipped = {path.stem: load_study(Path(path.stem)) for path in SWEEPS.glob(f"{scale}-*.toml")}
    subjects = ("centralized", "activations", "partitions", "sharing", "methods", "ablation")
    assert set(shipped) == {f"{scale}-{subject}" for subject in subjects}
    assert {name: len(points(found)) // len(found.seeds) for name, found in shipped.items()} == {
        f"{scale}-centralized": 4,
        f"{scale}-activations": 11,
        f"{scale}-partitions": 6,
        f"{scale}-sharing": 11,
        f"{scale}-methods": 8,
        f"{scale}-ablation": 7,
    }
    assert len(shipped[f"{scale}-methods"].seeds) >= 3


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("seeds = [7, 3]", "sedes = [1]"), "mine.toml: unknown key sedes; did you mean seeds or set?"),
        (("seeds = [7, 3]", "seeds = []"), "mine.toml: seeds = []: write a list of different whole numbers"),
        (("seeds = [7, 3]", "seeds = [1, 1]"), "mine.toml: seeds = [1, 1]: write a list of different"),
        (("seeds = [7, 3]", ""), "mine.toml: seeds = None: write a list"),
        (("seeds =", "seeds ="[:4]), "mine.toml: not valid TOML: "),
        (("[0, 0.5]", "[]"), "mine.toml: grid.sharing.fraction = []: write a list with at least one value"),
        (("[0, 0.5]", "0.5"), "mine.toml: grid.sharing.fraction = 0.5: write a list"),
        (("[0, 0.5]", "[0, 0.0]"), "grid.sharing.fraction = [0, 0.0]: write plain values, each of them once"),
        (("[0, 0.5]", "[0.5, 1.5]"), "activation=relu-seed7: sharing.fraction = 1.5: input should be less than"),
        (('"sharing.f', '"sharing.g'), "unknown key sharing.graction ("),
        (("[0, 0.5]", '[0]\n"seed" = [1]'), "[grid]): give the seeds of a study as seeds = [1, 2, 3]"),
        (("[0, 0.5]", '[0]\n"results.name" = ["a"]'), "results.name ("),
        (('name = "plain"', 'name = "CalFAT / 1"'), "mine.toml: case 'CalFAT / 1' stands twice"),
        (('name = "plain"', ""), "mine.toml: case: write each as a table [[case]] with a name"),
        (('"loss.name"', '"model.activation"'), "model.activation is set by [grid] and by case 'CalFAT / 1'"),
        (('"loss.name"', '"loss.nmae"'), "unknown key loss.nmae ("),
        (('{ case = "plain" }', '{ case = "none" }'), "mine.toml: reference.case = 'none': not a value of the study"),
        (('{ case = "plain" }', '{ "loss.name" = "x" }'), "mine.toml: unknown key reference.loss.name; the study var"),
        (("[set]", "[set]\nseed = 2"), "[set]): give the seeds of a study as"),
        (("seeds =", 'base = "gone"\nseeds ='), "mine.toml: base = 'gone': no file "),
        (("seeds =", 'command = "walk"\nseeds ='), "mine.toml: command = 'walk': unknown; allowed: run, centralized,"),
    ],
    ids=lambda value: value[1][:30] if isinstance(value, tuple) else "",
)
def test_a_mistake_in_a_study_file_is_one_line(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    assert change[0] in FILE
    with pytest.raises(FedShieldError) as error:
        points(study(tmp_path, FILE.replace(*change, 1)))
    assert expected in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_options_change_what_the_study_leaves_alone(tmp_path: Path) -> None:
    study(tmp_path)
    assert load_study(tmp_path / "mine.toml", {"model.width": 3}).settings["model.width"] == 3
    with pytest.raises(FedShieldError, match=r"--set loss\.name: the study mine sets it for each run"):
        load_study(tmp_path / "mine.toml", {"loss.name": "mart"})
    with pytest.raises(FedShieldError, match="no such file; give a study file, or one of the studies: cpu-ablation"):
        load_study(Path("no-such-study"))


RESULTS = """run,case,sharing.fraction,seed,rounds,n,natural,fgsm,pgd-20,worst,seconds,code,processor,threads
a1,plain,0,1,4,1000,0.40,0.30,0.20,0.20,10,aa,CPU,1
b1,plain,0.5,1,4,1000,0.50,0.31,0.24,0.23,10,aa,CPU,1
c1,best,0.5,1,4,1000,0.60,,0.25,0.25,10,aa,CPU,1
a2,plain,0,2,4,1000,0.44,0.32,0.22,0.22,10,aa,CPU,1
b2,plain,0.5,2,4,1000,0.52,0.33,0.25,0.24,10,aa+bb,CPU,1
a3,plain,0,3,4,1000,0.42,0.31,0.21,0.21,10,aa,CPU,1
b3,plain,0.5,3,4,1000,0.54,0.35,0.28,0.27,10,aa,CPU,1
"""


def results(folder: Path, text: str = RESULTS) -> Path:
    (folder / "results.csv").write_text(text)
    return folder


def test_results_tell_what_varies_and_which_attacks_there_are(tmp_path: Path) -> None:
    rows = read_results(results(tmp_path))
    assert varied(tmp_path) == ["case", "sharing.fraction"]
    assert attack_columns(rows[0]) == ["fgsm", "pgd-20"]
    assert read_rounds(tmp_path) == read_labels(tmp_path) == []


def test_a_table_has_mean_deviation_and_range_over_seeds(tmp_path: Path) -> None:
    sheet = accuracy_sheet("T", read_results(results(tmp_path)))
    assert sheet.header == ["case", "sharing.fraction", "seeds", "n", "natural %", "fgsm %", "pgd-20 %", "worst %"]
    # 40, 44, 42: mean 42, sample deviation 2
    assert sheet.rows[0][:5] == ["plain", "0", "3", "1,000", "42.0 ± 2.0 (40.0–44.0)"]
    assert sheet.rows[2] == ["best", "0.5", "1", "1,000", "60.0", "–", "25.0", "25.0"]
    assert "1,000 test images or fewer: a rough figure" in sheet.notes
    assert "rows come from 2 versions of the code" in sheet.notes
    larger = read_results(results(tmp_path, RESULTS.replace(",1000,", ",1001,").replace("aa+bb", "aa")))
    assert accuracy_sheet("T", larger).notes[1:] == ["7 runs, 0.0 hours of computing in all, on CPU, threads = 1"]


def test_differences_are_paired_by_seed(tmp_path: Path) -> None:
    rows = read_results(results(tmp_path))
    sheet = difference_sheet(rows, {"sharing.fraction": "0"})
    assert sheet is not None
    # natural: +10, +8, +12 -> mean 10, deviation 2, half width 4.3027 × 2 / √3 = 4.968; `best` has no such reference
    assert [row[:4] for row in sheet.rows] == [["plain", "0.5", "3", "+10.0 [+5.0, +15.0]"]]
    # fgsm: +1, +1, +4 -> mean 2, deviation √3, half width 4.3027
    assert sheet.rows[0][4] == "+2.0 [-2.3, +6.3]"
    by_case = difference_sheet(rows, {"case": "plain"})
    assert by_case is not None
    assert by_case.rows == [["best", "0.5", "1", "+10.0", "–", "+1.0", "+2.0"]]
    assert difference_sheet(rows, {"case": "best", "sharing.fraction": "0"}) is None


def test_intervals_and_spreads_have_the_right_width() -> None:
    found = interval([1.0, 3.0])  # 1 degree of freedom: half width 12.7062 × √2 / √2
    assert found == pytest.approx((2.0, 2 - 12.7062, 2 + 12.7062))
    many = interval([0.0, 1.0] * 50)
    assert many is not None
    assert many[2] - many[0] == pytest.approx(2.0423 * math.sqrt(25 / 99) / 10)
    assert interval([1.0]) is None
    assert spread([], 1) == "–"
    assert spread([2.0, 4.0], 2) == "3.00 ± 1.41 (2.00–4.00)"


def test_tables_need_nothing_but_results(tmp_path: Path) -> None:
    assert len(make_tables(results(tmp_path))) == 1
    (tmp_path / "study.toml").write_text('title = "Sharing"\nreference = { "sharing.fraction" = 0.0 }\n')
    make_tables(tmp_path)
    text = (tmp_path / "tables.md").read_text()
    assert text.startswith("# Sharing\n\n| case | sharing.fraction | seeds | n |")
    assert "\n## Difference from sharing.fraction = 0\n" in text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "empty"),
        (RESULTS.replace("seed,", "sede,", 1), "no column seed"),
        ("epoch,loss\n1,2\n", "no column run"),
        (RESULTS.replace("0.40", "40.0"), "line 2: natural = 40.0 is not a share from 0 to 1"),
        (RESULTS.replace("0.40", "high"), "line 2: natural = 'high' is not a number"),
        (RESULTS.replace("0.40", "nan"), "line 2: natural = nan is not a share from 0 to 1"),
        (RESULTS.replace("0.40,", ""), "line 2 has 13 cells, the header 14"),
        (RESULTS.replace("rounds,", "seed,"), "no column rounds"),
        (RESULTS.replace("fgsm", "pgd-20"), "two columns of one name"),
        ('run,"seed\n', "not CSV: unexpected end of data"),
        ("\x89PNG\x00", "no column "),
    ],
    ids=lambda text: text[:20] if len(text) < 60 else "",
)
def test_a_results_file_of_other_code_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    with pytest.raises(FedShieldError) as error:
        make_tables(results(tmp_path, text))
    assert f"{tmp_path}/results.csv: not a results file of FedShield ({expected}" in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_a_study_without_results_says_so(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match=r"results\.csv: not there; give the folder of a study"):
        read_results(tmp_path)
    with pytest.raises(FedShieldError, match=r"results\.csv: no run is finished yet"):
        read_results(results(tmp_path, RESULTS.splitlines()[0] + "\n"))


def test_cells_are_quoted_and_short(tmp_path: Path) -> None:
    row = {"point": "a,b", "seed": 1, "client": 0, "class": 'x"y', "images": 0.1 + 0.2}
    write_csv(tmp_path / "labels.csv", list(row), [row])
    assert read_labels(tmp_path) == [{"point": "a,b", "seed": "1", "client": "0", "class": 'x"y', "images": "0.3"}]


def test_the_code_version_is_that_of_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert study_gather.code_version() == study_gather.code_version()
    monkeypatch.setattr(study_gather, "ROOT", tmp_path)
    (tmp_path / "common").mkdir()
    seen = set()
    for text in ("a = 1", "a = 2"):
        (tmp_path / "common" / "a.py").write_text(text)
        seen.add(study_gather.code_version())
    assert len(seen) == 2


def test_jobs_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulations.sweep_jobs.available_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [default_jobs(threads) for threads in ([1], [3, 2], [16], [0, 1])] == [8, 2, 1, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpus() == ["2", "5"]
    assert default_jobs([1]) == 2
