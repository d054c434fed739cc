"""Study files and their points; the tables of hand-made results."""

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from common.config.schema import RunConfig
from common.errors import FedShieldError
from common.files import read_json, read_json_lines
from simulations.reports.differences import difference_sheet
from simulations.reports.joint_intervals import joint_differences, joint_sheets
from simulations.reports.sheets import Sheet, spread
from simulations.reports.study_tables import accuracy_sheet, make_tables, write_tables
from simulations.shipped import SWEEPS
from simulations.studies import gather, processes
from simulations.studies.processes import RunProcess, default_jobs, gpus
from simulations.studies.study import Study, config_toml, load_study, points, study_toml
from simulations.study_directory import (
    attack_columns,
    cell,
    read_heading,
    read_labels,
    read_results,
    read_rounds,
    varied,
    write_csv,
)

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
    (tmp_path / "base.toml").write_text('results.name = "a"\nresults.resume = "b"\n')
    config = points(study(tmp_path, text))[0].config
    assert (config.results.name, config.results.resume) == ("", "")
    preset = points(study(tmp_path, 'base = "cpu-study"\nseeds = [1]'))[0].config
    assert preset.data.root == "data/cifar10-jpeg"


def test_the_resolved_study_has_the_same_points(tmp_path: Path) -> None:
    first = study(tmp_path)
    (tmp_path / "again").mkdir()
    again = study(tmp_path / "again", study_toml(first))
    assert points(again) == points(first)
    assert (again.title, again.reference) == (first.title, first.reference)
    alone = study(tmp_path, 'seeds = [1]\n[[case]]\nname = "a"')  # without a grid
    assert points(study(tmp_path / "again", study_toml(alone))) == points(alone)
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


OF_TWO_CORES = {
    **{"cpu-adaptive-sharing": 7, "cpu-byzantine": 36, "cpu-fast": 3, "cpu-membership": 4},
    **{"cpu-privacy": 15, "cpu-repair": 12},
}


@pytest.mark.parametrize("scale", ["cpu", "full"])
def test_shipped_studies_parse(scale: str) -> None:
    shipped = {path.stem: load_study(Path(path.stem)) for path in SWEEPS.glob(f"{scale}-*.toml")}
    assert {name: len(points(found)) // len(found.seeds) for name, found in shipped.items()} == {
        f"{scale}-centralized": 4,
        f"{scale}-activations": 11,
        f"{scale}-partitions": 6,
        f"{scale}-sharing": 11,
        f"{scale}-methods": 18,
        f"{scale}-ablation": 7,
        f"{scale}-benchmark": 60,
        **(OF_TWO_CORES if scale == "cpu" else {}),
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
        (
            ("[set]", '[set]\n"sharing.pool-fraction" = 0'),
            "case=plain,sharing.fraction=0.5,model.activation=relu-seed7: sharing.fraction = 0.5: there is no pool",
        ),
        (('"sharing.f', '"sharing.g'), "unknown key sharing.graction ("),
        (("[0, 0.5]", '[0]\n"seed" = [1]'), "[grid]): give the seeds of a study as seeds = [1, 2, 3]"),
        (("[0, 0.5]", '[0]\n"results.name" = ["a"]'), "results.name ("),
        (('name = "plain"', 'name = "CalFAT / 1"'), "mine.toml: case 'CalFAT / 1' appears twice"),
        (('name = "plain"', ""), "mine.toml: case: write each as a table [[case]] with a name"),
        (('"loss.name"', '"model.activation"'), "model.activation is set by [grid] and by case 'CalFAT / 1'"),
        (('"loss.name"', '"loss.nmae"'), "unknown key loss.nmae ("),
        (('{ case = "plain" }', '{ case = "none" }'), "mine.toml: reference.case = 'none': not a value of the study"),
        (('{ case = "plain" }', '{ "loss.name" = "x" }'), "mine.toml: unknown key reference.loss.name; the study var"),
        (("[set]", "[set]\nseed = 2"), "[set]): give the seeds of a study as"),
        (("[set]", '[set]\n"results.name" = "a"'), "[set]): the sweep chooses the place of each run"),
        (("[set]", '[set]\n"results.resume" = "a"'), "results.resume ("),
        ((FILE[FILE.index('"sharing') : FILE.index("[[case]]")], ""), "mine.toml: [grid] is empty: write a key"),
        ((FILE, "seeds = [1]\ncase = []"), "mine.toml: case = [] is empty: write a table [[case]] for each"),
        ((FILE, "seeds = [1]\n[grid.sharing]"), "mine.toml: [grid] is empty"),
        (
            (FILE, FILE.replace('case = "plain"', '"sharing.fraction" = false')),
            "fraction = False: not a value",
        ),
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


def test_options_change_what_the_study_leaves_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study(tmp_path)
    assert load_study(tmp_path / "mine.toml", {"model.width": 3}).settings["model.width"] == 3
    with pytest.raises(FedShieldError, match=r"--set loss\.name: the study mine sets it for each run"):
        load_study(tmp_path / "mine.toml", {"loss.name": "mart"})
    assert load_study(tmp_path / "mine.toml", {"results.dir": "there"}).settings["results.dir"] == "there"
    with pytest.raises(FedShieldError, match=r"results\.resume \(--set\): the sweep chooses the place of each run"):
        load_study(tmp_path / "mine.toml", {"results.resume": "runs/a"})
    with pytest.raises(FedShieldError, match="no such file; give a study file, or one of the studies: cpu-ablation"):
        load_study(Path("no-such-study"))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FedShieldError, match=r"mine: no such file; did you mean mine\.toml\?"):
        load_study(Path("mine"))


def test_a_failed_run_tells_its_own_line_and_not_the_last_words_of_a_library(tmp_path: Path) -> None:
    log = tmp_path / "run.log"
    log.write_text("round 1\nfedshield: round 1: 0 valid replies\nterminate called without an active exception\n")
    process = subprocess.Popen(["/bin/sh", "-c", "kill -ABRT $$"])
    process.wait()
    job = RunProcess(points(load_study(Path("cpu-sharing")))[0], process, log, len("round 1\n"), 0)
    assert job.complaint() == "ended by signal 6 after: round 1: 0 valid replies"


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
    # 1.96 × √(0.25 / 1001) = 3.097 %
    assert accuracy_sheet("T", larger).notes[1:] == [
        "95 % interval of a figure for the sample of 1,001 test images: ± 3.1 points at most",
        "7 runs, 0.0 hours of computing in all, on CPU, threads = 1",
    ]


def test_a_terminal_of_80_columns_breaks_no_number(tmp_path: Path) -> None:
    rows = read_results(results(tmp_path))
    differences = difference_sheet(rows, {"sharing.fraction": "0"})
    assert differences is not None
    for sheet in (accuracy_sheet("T", rows), differences):
        for width in (80, 40):
            console = Console(width=width, soft_wrap=True)
            with console.capture() as capture:
                console.print(sheet.rich(console.width))
            lines = capture.get().splitlines()
            for text in (text for row in sheet.rows for text in row[sheet.names :]):
                for part in text.replace(" (", "\n(").replace(" [", "\n[").split("\n"):
                    assert any(part in line for line in lines), part
            if width == 80:
                assert max(map(len, lines[: -len(sheet.notes)])) <= width


def test_a_narrow_terminal_keeps_the_names_of_the_rows() -> None:
    sheet = Sheet("T", ["case", "images"], [["non-IID of the paper", "9" * 80]], [], 1)
    console = Console(width=60, soft_wrap=True)
    with console.capture() as capture:
        console.print(sheet.rich(console.width))
    shown = "".join(line[:7] for line in capture.get().splitlines()[4:])
    assert "".join(shown.split()) == "non-IIDofthepaper"
    many = Sheet("T", ["run", *"abcdef"], [["20261125-seed1", *["59.7 [56.6, 62.7]"] * 6]], [], 1)
    for width in range(70, 110):
        console = Console(width=width, soft_wrap=True)
        with console.capture() as capture:
            console.print(many.rich(console.width))
        lines = capture.get().splitlines()
        shown = [re.split(r"59\.7|\[56", line)[0].strip() for line in lines]
        assert "20261125-seed1" in shown
        assert max(map(len, lines)) <= width
        assert sum(line.count("59.7") for line in lines) == 6


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
    same = difference_sheet([{**row, "natural": "0.4"} for row in rows], {"sharing.fraction": "0"})
    assert same is not None
    assert same.rows[0][3] == "0.0 [0.0, 0.0]"
    assert same.notes[-1].startswith("1 comparison with the reference: ")


def test_intervals_over_seeds_and_images_have_both_errors(tmp_path: Path) -> None:
    rows = read_results(results(tmp_path))
    (means,), (differences,) = joint_sheets(rows), joint_differences(rows, {"sharing.fraction": "0"})
    # p = 42 %, n = 1000: (420 + 2) / 1004 = 0.42032, of variance 0.24365; 1.96 × √(0.24365 / 1000) = 3.059 points.
    # Seeds: 4.968. √(4.968² + 3.059²) = 5.834.
    assert means.rows[0][:3] == ["plain", "0", "42.0 [36.2, 47.8]"]
    assert means.rows[2] == ["best", "0.5", "–", "–", "–", "–"]
    # 52 %: 522 / 1004 = 0.51992, 0.24960; 1.96 × √((0.24365 + 0.24960) / 1000) = 4.353; √(4.968² + 4.353²) = 6.605.
    assert [row[:3] for row in differences.rows] == [["plain", "0.5", "+10.0 [+3.4, +16.6]"]]
    assert joint_sheets(rows[:1]) == joint_differences(rows[:1], {"sharing.fraction": "0"}) == []


def test_a_difference_without_a_sign_is_none(tmp_path: Path) -> None:
    text = RESULTS.replace("b1,plain,0.5,1,4,1000,0.50", "b1,plain,0.5,1,4,1000,0.3999")
    sheet = difference_sheet(read_results(results(tmp_path, text))[:2], {"sharing.fraction": "0"})
    assert sheet is not None
    assert sheet.rows[0][3] == "0.0"


def test_the_table_says_within_what_was_attacked(tmp_path: Path) -> None:
    head, *lines = RESULTS.splitlines()
    linf, l2 = "8/255 (Linf)", "0.5 (L2; 127.5/255)"

    def notes(best: str) -> list[str]:
        told = [f"{line},{best if ',best,' in line else linf}" for line in lines]
        rows = read_results(results(tmp_path, "\n".join([f"{head},threat", *told])))
        return [note for note in accuracy_sheet("T", rows).notes if "within" in note]

    assert notes(linf) == ["attacks within 8/255 (Linf)"]
    assert notes(l2) == [
        "attacks within 8/255 (Linf): plain, 0; plain, 0.5",
        "attacks within 0.5 (L2; 127.5/255): best, 0.5",
        "figures under attack that are within different radii or norms do not compare",
    ]


def test_a_spread_of_one_value_or_none_has_no_width() -> None:
    assert spread([], 1) == "–"
    assert spread([2.0, 4.0], 2) == "3.00 ± 1.41 (2.00–4.00)"


def test_tables_need_nothing_but_results(tmp_path: Path) -> None:
    assert len(make_tables(results(tmp_path))) == 2
    (tmp_path / "study.toml").write_text('title = "Sharing"\nreference = { "sharing.fraction" = 0.0 }\n')
    text = write_tables(tmp_path, make_tables(tmp_path)).read_text()
    assert text.startswith("# Sharing\n\n| case | sharing.fraction | seeds | n |")
    assert "\n## Difference from sharing.fraction = 0\n" in text
    (tmp_path / "study.toml").write_text('reference = { "sharing.fraction" = 0.7 }\n')
    assert make_tables(tmp_path)[0].notes[-1] == "no finished run of the reference yet"
    (tmp_path / "study.toml").write_text('reference = { case = "best", "sharing.fraction" = 0.5 }\n')
    results(tmp_path, "\n".join(line for line in RESULTS.splitlines() if line[1] != "1" or line[:2] == "c1"))
    assert make_tables(tmp_path)[0].notes[-1] == "no finished run to compare with the reference yet"


def test_a_spreadsheet_program_may_have_saved_the_results(tmp_path: Path) -> None:
    expected = read_results(results(tmp_path))
    saved = "\ufeff" + RESULTS.replace("\n", "\r\n").replace("b1,", "\r\nb1,") + "\r\n"
    assert read_results(results(tmp_path, saved)) == expected


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
        (RESULTS.replace("a2,plain,0,2", "a2,plain,0,1"), "line 5 has the case, sharing.fraction, seed of line 2"),
        (RESULTS.replace("run,case", "case,run", 1), "column case is in the place of run"),
        (RESULTS.replace("seed,rounds", "rounds,seed", 1), "column n is in the place of rounds"),
        (RESULTS.replace("worst,seconds", "seconds,worst", 1), "column code is in the place of seconds"),
        (RESULTS.replace("seed,rounds,n,", "seed,n,rounds,", 1), "column n is in the place of rounds"),
        (RESULTS.replace("threads\n", "threads,more\n").replace(",1\n", ",1,2\n"), "unknown column more"),
        (RESULTS.replace("4,1000,0.40", "4,inf,0.40"), "line 2: n = inf is not a whole number"),
        (RESULTS.replace("0,1,4,1000,0.40", "0,1.5,4,1000,0.40"), "line 2: seed = 1.5 is not a whole number"),
        (RESULTS.replace("0,1,4,1000,0.40", "0,1,nan,1000,0.40"), "line 2: rounds = nan is not a whole number"),
        (RESULTS.replace("0.20,10,aa", "0.20,inf,aa", 1), "line 2: seconds = inf is not a finite number"),
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
    with pytest.raises(FedShieldError, match=r"results\.csv: not found; give the folder of a study"):
        read_results(tmp_path)
    with pytest.raises(FedShieldError, match=r"results\.csv: no run is finished yet"):
        read_results(results(tmp_path, RESULTS.splitlines()[0] + "\n"))


def test_cells_are_quoted_and_short(tmp_path: Path) -> None:
    row = {"point": "a,b", "seed": 1, "client": 0, "class": 'x"y', "images": 3}
    write_csv(tmp_path / "labels.csv", list(row), [row])
    assert read_labels(tmp_path) == [{"point": "a,b", "seed": "1", "client": "0", "class": 'x"y', "images": "3"}]
    assert [cell(value) for value in (0.1 + 0.2, True, None, "a")] == ["0.3", "true", "", "a"]
    write_csv(tmp_path / "labels.csv", list(row), [row, row])
    with pytest.raises(FedShieldError, match="line 3 has the seed, client, class of line 2"):
        read_labels(tmp_path)
    head = "run,seed,round,n,natural,pgd,loss,seconds\n"
    (tmp_path / "rounds.csv").write_text(head + "a,1,2,10,0.5,0.5,1,1\na,1,4,10,0.5,0.5,1,1\n")
    assert len(read_rounds(tmp_path)) == 2
    (tmp_path / "rounds.csv").write_text(head + "a,1,2.5,10,0.5,0.5,1,1\n")
    with pytest.raises(FedShieldError, match=r"round = 2\.5 is not a whole number"):
        read_rounds(tmp_path)


def test_the_code_version_is_that_of_the_sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert gather.code_version() == gather.code_version()
    monkeypatch.setattr(gather, "ROOT", tmp_path)
    seen = set()
    for name in ("client/app.py", "common/a.py", "server/b/c.py", "simulations/centralized.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        for text in ("a = 1", "a = 2"):
            (tmp_path / name).write_text(text)
            seen.add(gather.code_version())
    assert len(seen) == 8
    (tmp_path / "simulations" / "cli.py").write_text("a = 1")
    assert gather.code_version() in seen


SUMMARY = {"rounds": 1, "seconds": 2.0, "final": None}
ENVIRONMENT = {"processor": "CPU", "device": "cpu", "threads": 1}


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("summary.json", "{}", "damaged; delete the run directory, and run the sweep again"),
        ("summary.json", "[]", "damaged (not a JSON object); delete the run directory, and run the sweep again"),
        ("summary.json", '{"rounds": 1, "seconds": 2, "final": [1]}', "damaged; delete"),
        ("environment.json", '{"device": "cpu"}', "damaged; delete"),
        ("partition.json", "{}", "damaged; delete"),
        ("partition.json", '{"clients": [[1, 2]], "classes": ["a"]}', "damaged; delete"),
        ("metrics.jsonl", "{}\n", "damaged; delete"),
        ("metrics.jsonl", "\u00e9", "line 1 is damaged (not valid JSON); remove that line"),
        ("metrics.jsonl", "[]\n", "line 1 is damaged; remove that line"),
    ],
)
def test_a_damaged_run_is_one_line(tmp_path: Path, name: str, content: str, expected: str) -> None:
    mine = study(tmp_path, "seeds = [1]")
    run = tmp_path / "runs" / "seed1"
    run.mkdir(parents=True)
    (run / "summary.json").write_text(json.dumps(SUMMARY))
    (run / "environment.json").write_text(json.dumps(ENVIRONMENT))
    assert len(gather.gather(mine, points(mine), tmp_path)) == 1
    (run / name).write_bytes(content.encode("latin-1"))
    with pytest.raises(FedShieldError) as error:
        gather.gather(mine, points(mine), tmp_path)
    assert str(error.value).startswith(f"{run / name}: {expected}")


@pytest.mark.parametrize("content", ["{}", '{"clients": []}', '{"clients": 3}', '{"clients": [[0, 0]]}'])
def test_a_damaged_division_is_one_line(tmp_path: Path, content: str) -> None:
    mine = replace(study(tmp_path, "seeds = [1]"), command="partitions")
    (tmp_path / "runs" / "seed1").mkdir(parents=True)
    (tmp_path / "runs" / "seed1" / "partition.json").write_text(content)
    with pytest.raises(FedShieldError, match=r"partition\.json: damaged; delete the run directory"):
        gather.gather(mine, points(mine), tmp_path)


def test_a_last_line_that_was_cut_short_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"round": 1}\n{"rou')
    assert read_json_lines(tmp_path / "a.jsonl") == [{"round": 1}]
    (tmp_path / "a.json").write_text("3")
    with pytest.raises(FedShieldError, match=r"a\.json: damaged \(not a JSON object\); look"):
        read_json(tmp_path / "a.json", "look")


def test_jobs_fit_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.machine.available_cores", lambda: 8)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert [default_jobs(threads) for threads in ([1], [3, 2], [16], [0, 1])] == [8, 2, 1, 1]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    assert gpus() == ["2", "5"]
    assert default_jobs([1]) == 2


def test_each_slot_has_a_gpu_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "python"
    # Each of the first two waits until both have started, so that both slots are taken.
    program.write_text(
        f"#!/bin/sh\ntouch {tmp_path}/$$.begun\necho gpu $CUDA_VISIBLE_DEVICES\n"
        f"for i in $(seq 200); do [ $(ls {tmp_path}/*.begun | wc -l) -ge 2 ] && exit 0; sleep 0.1; done\nexit 1\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr("simulations.studies.processes.sys.executable", str(program))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
    mine, ended = study(tmp_path, "seeds = [1, 2, 3]"), list[processes.RunProcess]()
    (tmp_path / "runs").mkdir()
    processes.run_jobs("run", points(mine), tmp_path / "runs", 2, ended.append, lambda: None)
    assert [job.process.returncode for job in ended] == [0, 0, 0]
    told = {job.point.seed: job.log.read_text() for job in ended}
    assert [told[1], told[2]] == ["gpu 2\n", "gpu 5\n"]
    assert told[3] in ("gpu 2\n", "gpu 5\n")
