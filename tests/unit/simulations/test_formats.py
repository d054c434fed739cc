"""Tables in other formats, and what figures call things."""

import csv
from pathlib import Path

import pytest

from common.config.flat import default_config
from common.errors import FedShieldError
from simulations.reports.figures.measured import measured
from simulations.reports.figures.study_figures import study_figures
from simulations.reports.figures.style import Figure, file_spec
from simulations.reports.formats import as_csv, as_latex, as_markdown, latex
from simulations.reports.labels import _WORDS, words_of
from simulations.reports.sheets import Sheet
from simulations.studies.study import load_study, points, study_toml, with_headline
from simulations.study_directory import read_heading

SHEET = Sheet("20 % & more", ["case", "natural %"], [["a_b", "42.0 ± 2.0 (40.0–44.0)"]], ["n = 5"], 1)


def test_latex_has_booktabs_and_escapes_every_sign() -> None:
    assert latex(r"\{a}_%$#&~^<") == (r"\textbackslash{}\{a\}\_\%\$\#\&\textasciitilde{}\textasciicircum{}\textless{}")
    lines = as_latex([SHEET]).splitlines()
    assert lines[3:9] == [
        r"\caption{20 \% \& more}",
        r"\begin{tabular}{lr}",
        r"\toprule",
        r"case & natural \% \\",
        r"\midrule",
        r"a\_b & 42.0 $\pm$ 2.0 (40.0--44.0) \\",
    ]


def test_latex_takes_no_first_cell_for_an_option_of_the_line_break_before_it() -> None:
    sheet = Sheet("t", ("[x]", "n"), [["*", "1"], ["a[1]", "[2, 3]"]], [], 1)
    lines = as_latex([sheet]).splitlines()
    assert [line for line in lines if "&" in line] == [r"{}[x] & n \\", r"{}* & 1 \\", r"a[1] & [2, 3] \\"]


def test_csv_and_markdown_have_all_cells() -> None:
    rows = list(csv.reader(as_csv([SHEET, SHEET]).splitlines()))
    assert rows[1:3] == [["case", "natural %"], ["a_b", "42.0 ± 2.0 (40.0–44.0)"]]
    other = Sheet("other", SHEET.header, SHEET.rows, [], 1)
    assert as_csv([SHEET, other]).count("\n\n# other\n") == 1
    assert as_markdown([SHEET, SHEET]).startswith("# 20 % \\& more\n")


def test_words_are_those_of_keys_that_there_are() -> None:
    assert _WORDS.keys() <= default_config().keys()
    assert words_of("sharing.fraction") == "data shared, %"
    assert words_of("train.label-smoothing") == "label smoothing"


RESULTS = """run,case,strategy.name,seed,rounds,n,natural,fgsm,pgd-20,worst,seconds,code,processor,threads
a1,none,fedavg,1,2,1000,0.5,0.4,0.3,0.3,1,aa,CPU,1
a2,none,krum,1,2,1000,0.4,0.3,0.2,0.2,1,aa,CPU,1
a3,flip,fedavg,1,2,1000,0.1,0.1,0.1,0.1,1,aa,CPU,1
a4,flip,krum,1,2,1000,0.4,0.3,,0.2,1,aa,CPU,1
"""


def test_strategies_against_lies_are_a_grid(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(RESULTS)
    figures = study_figures(tmp_path)
    assert {"grid", "points"} <= figures.keys()
    specs = [panel.drawing.to_dict() for panel in figures["grid"].panels]
    natural, robust = (spec["datasets"][spec["data"]["name"]] for spec in specs)
    assert natural[2] == {"down": "fedavg", "across": "flip", "accuracy": 10.0, "mean": "10.0"}
    shown = [(cell["down"], cell["across"]) for cell in robust]
    assert shown == [("fedavg", "none"), ("krum", "none"), ("fedavg", "flip")]  # the fourth has no figure


def test_many_cases_are_a_grid_not_a_bundle_of_lines(tmp_path: Path) -> None:
    varied_by = "case,partition.scheme,sharing.fraction"
    head = f"run,{varied_by},seed,rounds,n,natural,pgd-20,worst,seconds,code,processor,threads"
    many = [(f"m{case}", scheme, share) for case in range(7) for scheme in ("iid", "paper") for share in (0.0, 0.4)]
    for varied, names in ((many, {"points", "grid"}), (many[:24], {"over-sharing.fraction"})):
        lines = [f"r{n},{c},{p},{s},1,2,1000,0.5,{n / 100},0.3,1,aa,CPU,1" for n, (c, p, s) in enumerate(varied)]
        (tmp_path / "results.csv").write_text("\n".join([head, *lines, ""]))
        figures = study_figures(tmp_path)
        assert figures.keys() == names
        if "grid" in names:
            spec = figures["grid"].panels[1].drawing.to_dict()
            cells = spec["datasets"][spec["data"]["name"]]
            assert len(cells) == 28
            assert cells[5] == {"down": "m1", "across": "iid, fraction 0.4", "accuracy": 5.0, "mean": "5.0"}


def test_the_attack_of_the_figures_is_the_studys(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(RESULTS)
    (tmp_path / "study.toml").write_text('title = "T"\nheadline = "fgsm"\n')
    assert read_heading(tmp_path).headline == "fgsm"
    rows = [
        {"natural": "0.5", "fgsm": "", "pgd-20": "0.3", "worst": "0.3", "run": "a", "seed": "1", "n": "9", "why": ""}
    ]
    found = [dict.fromkeys(["run", "seed", "natural", "fgsm", "pgd-20", "worst"], "") | row for row in rows]
    assert list(measured(found, [], "fgsm").measures) == ["natural", "robust (fgsm)"]
    assert list(measured(found, []).measures) == ["natural", "robust (pgd-20)"]


def test_a_study_writes_down_its_attack_and_refuses_another(tmp_path: Path) -> None:
    file = tmp_path / "one.toml"
    grid = 'seeds = [1]\n[grid]\n"model.width" = [2, 3]\n[set]\n"evaluate.final-attacks" = "fgsm,pgd-20,deepfool"\n'
    file.write_text(grid)
    study = with_headline(load_study(file), points(load_study(file)))
    assert 'headline = "pgd-20"' in study_toml(study).splitlines()
    file.write_text(f'headline = "fgsm"\n{grid}')
    assert with_headline(load_study(file), points(load_study(file))).headline == "fgsm"
    for given, reason in (("pgd-10", "not one of its final attacks"), ("pdg", "unknown attack")):
        file.write_text(f'headline = "{given}"\n{grid}')
        with pytest.raises(FedShieldError, match=reason):
            points(load_study(file))


def test_a_plain_figure_has_neither_title_nor_caption(tmp_path: Path) -> None:
    (tmp_path / "results.csv").write_text(RESULTS)
    figure = study_figures(tmp_path)["grid"]
    plain = Figure(figure.panels, "", "", figure.margin, figure.columns)
    assert "title" in file_spec(figure)
    assert "title" not in file_spec(plain)
