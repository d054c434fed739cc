"""Figures: that they are made, from what, with the right values, and the same bytes each time."""

import base64
import html
import io
import json
import logging
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import vl_convert
from PIL import Image

from common.errors import FedShieldError
from common.evaluation.results import Evaluation
from common.evaluation.store import ArrayStore
from common.paths import ROOT
from simulations.reports.figures.charts import of_seeds
from simulations.reports.figures.evaluation_figures import (
    confusion,
    confusion_figure,
    evaluation_figures,
    plot_evaluation,
)
from simulations.reports.figures.files import save
from simulations.reports.figures.line_charts import Lines
from simulations.reports.figures.line_charts import lines as draw_lines
from simulations.reports.figures.run_figures import accuracy_figure, partition_figure, plot_run
from simulations.reports.figures.study_figures import plot_study, study_figures
from simulations.reports.figures.style import Figure, Panel, file_spec
from simulations.reports.html.page import Chart
from simulations.reports.html.study_page import study_page
from simulations.reports.study_tables import make_tables
from simulations.study_directory import read_results, write_csv

HEAD = ["seed", "rounds", "n", "natural", "fgsm", "pgd-20", "worst", "seconds", "code", "processor", "threads"]
SEEDS = (1, 2, 3)


def natural(point: int, seed: int) -> float:
    return round(0.30 + 0.05 * point + 0.01 * seed * seed, 4)


def make_study(folder: Path, keys: list[str], points: list[tuple[Any, ...]], rounds: int = 2, **toml: str) -> Path:
    """Write the CSV files of a study: FGSM leaves nine tenths of the natural accuracy, PGD a half."""
    folder.mkdir()
    results, over_rounds = [], []
    for seed in SEEDS:
        for place, point in enumerate(points):
            run = f"{'-'.join(map(str, point))}-seed{seed}"
            head = {"run": run, **dict(zip(keys, point, strict=True)), "seed": seed, "n": 100}
            for number in range(1, rounds + 1):
                rate = natural(place, seed) * number / rounds
                record = {**head, "round": number, "natural": rate, "fgsm": 0.9 * rate, "pgd-20": 0.5 * rate}
                over_rounds.append({**record, "loss": 2.0, "seconds": 1.0})
            results.append({**record, "rounds": rounds, "worst": 0.5 * rate, "seconds": 1.0, "threads": 1})
    write_csv(folder / "results.csv", ["run", *keys, *HEAD], results)
    columns = ["run", *keys, "seed", "round", "n", "natural", "fgsm", "pgd-20", "loss", "seconds"]
    write_csv(folder / "rounds.csv", columns, over_rounds)
    if toml:
        (folder / "study.toml").write_text("".join(f"{key} = {value}\n" for key, value in toml.items()))
    return folder


def add_labels(folder: Path, key: str, tables: dict[str, list[list[int]]]) -> None:
    rows = [
        {"point": value, key: value, "seed": seed, "client": client, "class": name, "images": count + seed - 1}
        for seed in SEEDS
        for value, table in tables.items()
        for client, counts in enumerate(table)
        for name, count in zip(("cat", "dog"), counts, strict=True)
    ]
    write_csv(folder / "labels.csv", ["point", key, "seed", "client", "class", "images"], rows)


def rows(panel: Panel) -> list[dict[str, Any]]:
    """Return what a panel draws."""
    found: dict[str, list[dict[str, Any]]] = panel.drawing.to_dict()["datasets"]
    return next(iter(found.values()))


def layers(spec: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    """Return the parts of a drawing that are marks of a kind."""
    own = [spec] if spec.get("mark", {}).get("type") == kind else []
    return own + [found for part in spec.get("layer", []) for found in layers(part, kind)]


def encoding(panel: Panel, kind: str, channel: str) -> dict[str, Any]:
    """Return how the first mark of a kind uses a channel."""
    found: dict[str, Any] = layers(panel.drawing.to_dict(), kind)[0]["encoding"][channel]
    return found


def lines(panel: Panel) -> dict[str, tuple[list[float], list[float]]]:
    """Return the lines of a panel: name -> x and y, which is the mean at each x."""
    x = encoding(panel, "line", "x")["field"]
    assert encoding(panel, "line", "y").get("aggregate") == ("mean" if x == "x" else None)
    found: dict[str, dict[float, list[float]]] = {}
    for row in rows(panel):
        found.setdefault(row.get("name", row.get("measure")), {}).setdefault(row[x], []).append(row["accuracy"])
    return {name: ([*sorted(own)], [sum(own[at]) / len(own[at]) for at in sorted(own)]) for name, own in found.items()}


def bands(panel: Panel) -> list[tuple[float, float]]:
    """Return the lowest and the highest value of each band."""
    if not (areas := layers(panel.drawing.to_dict(), "area")):
        return []
    low, high = (areas[0]["encoding"][channel] for channel in ("y", "y2"))
    assert (low.get("aggregate"), high.get("aggregate")) in (("min", "max"), (None, None))
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows(panel):
        found.setdefault(row.get("name", row.get("measure")), []).append(row)
    return [(min(row[low["field"]] for row in own), max(row[high["field"]] for row in own)) for own in found.values()]


def counts(panel: Panel) -> dict[tuple[str, str], float]:
    """Return the counts behind the cells of a table of shades: (row, column) -> count."""
    return {(row["down"], row["across"]): row["count"] for row in rows(panel)}


def size(png: Path) -> tuple[int, int]:
    with Image.open(png) as image:
        return image.size


def drawn_text(figure: Figure) -> list[str]:
    """Return the texts of a figure as they are drawn."""
    svg = vl_convert.vegalite_to_svg(file_spec(figure))
    return [html.unescape(text) for text in re.findall(r"<(?:text|tspan)[^>]*>([^<]+)<", svg)]


def mean(point: int) -> float:
    return 100 * sum(natural(point, seed) for seed in SEEDS) / len(SEEDS)


def caption(figure: Figure) -> str:
    return figure.caption


def test_over_a_numeric_key_the_means_and_the_seeds_are_drawn(tmp_path: Path) -> None:
    shares = [(0.0,), (0.5,), (1.0,)]
    folder = make_study(tmp_path / "s", ["sharing.fraction"], shares, title='"Sharing"')
    drawn = study_figures(folder)
    assert list(drawn) == ["rounds", "over-sharing.fraction"]
    figure = drawn["over-sharing.fraction"]
    left, right = figure.panels
    assert (left.title, right.title) == ("natural", "robust (pgd-20)")
    x = encoding(left, "line", "x")
    assert (x["title"], x["scale"]["type"]) == ("data shared, %", "linear")
    assert lines(left) == {"all": ([0, 50, 100], pytest.approx([mean(place) for place in range(3)]))}
    seeds = sorted(row["accuracy"] for row in rows(left))
    assert seeds == pytest.approx(sorted(100 * natural(p, s) for p in range(3) for s in SEEDS))
    assert encoding(left, "point", "y")["aggregate"] == "mean"
    rings = layers(left.drawing.to_dict(), "point")[1]
    assert "aggregate" not in rings["encoding"]["y"]
    assert lines(right)["all"][1] == pytest.approx([mean(place) / 2 for place in range(3)])
    assert bands(left) == [pytest.approx((100 * natural(0, 1), 100 * natural(2, 3)))]
    assert figure.title == "Sharing"
    for said in ("rounds", "over-sharing.fraction"):
        assert "the mean of 3 seeds; band:" in caption(drawn[said])
        assert "n = 100 test images, 95 % interval: ± 9.8 points at most" in caption(drawn[said])


def test_a_key_over_decades_is_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    drawn = study_figures(make_study(tmp_path / "s", ["partition.alpha"], [(0.1,), (1.0,), (100.0,)]))
    panels = drawn["over-partition.alpha"].panels
    assert {encoding(panel, "line", "x")["scale"]["type"] for panel in panels} == {"log"}


@pytest.mark.parametrize(
    ("values", "drawn"), [((5, 10), "5 10"), ((0.05, 0.1, 0.25), "0.05 0.1 0.25"), ((0.1, 1.0, 100.0), "0.1 1 100")]
)
def test_an_axis_shows_its_values_as_people_write_them(tmp_path: Path, values: tuple[float, ...], drawn: str) -> None:
    figures = study_figures(make_study(tmp_path / "s", ["partition.alpha"], [(value,) for value in values]))
    text = " ".join(drawn_text(figures["over-partition.alpha"]))
    assert drawn in text
    assert "e+" not in text


def test_no_axis_goes_on_to_an_accuracy_below_zero(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["case"], [("a",), ("b",)])
    rows = [{**row, "pgd-20": "0.0" if row["case"] == "a" else row["pgd-20"]} for row in read_results(folder)]
    write_csv(folder / "results.csv", list(rows[0]), rows)
    natural, robust = study_figures(folder)["points"].panels
    for panel, floor in ((natural, None), (robust, 0)):
        scales = [layer["encoding"]["x"]["scale"] for layer in layers(panel.drawing.to_dict(), "point")]
        assert {scale.get("domainMin") for scale in scales} == {floor}
    for lowest, floor in ((0.0, 0), (40.0, None)):
        spec = of_seeds(
            [{"name": "a", "seed": 1, "accuracy": lowest}, {"name": "b", "seed": 1, "accuracy": 50.0}], "ab"
        ).to_dict()
        assert {layer["encoding"]["x"]["scale"].get("domainMin") for layer in layers(spec, "point")} == {floor}


def test_one_seed_and_one_round_are_not_made_more_of(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["case"], [("a",), ("b",)], rounds=1)
    results = folder / "results.csv"
    results.write_text("".join(line for line in results.read_text().splitlines(True) if "seed2" not in line))
    drawn = study_figures(folder)
    assert list(drawn) == ["points"]
    assert "the mean of 2 seeds" in caption(drawn["points"])
    results.write_text("".join(line for line in results.read_text().splitlines(True) if "seed3" not in line))
    alone = "One seed; n = 100 test images, 95 % interval: ± 9.8 points at most"
    assert caption(study_figures(folder)["points"]) == alone


def test_what_else_varies_has_a_line_each(tmp_path: Path) -> None:
    grid = [(case, share) for case in ("FedAvg", "CalFAT") for share in (0.0, 0.4)]
    drawn = study_figures(make_study(tmp_path / "s", ["case", "sharing.fraction"], grid))
    found = lines(drawn["over-sharing.fraction"].panels[0])
    assert found["FedAvg"] == ([0, 40], pytest.approx([mean(0), mean(1)]))
    assert found["CalFAT"] == ([0, 40], pytest.approx([mean(2), mean(3)]))
    assert "CalFAT, fraction 0.4" in lines(drawn["rounds"].panels[0])


def test_more_lines_than_can_be_told_apart_are_not_drawn_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cases = [(f"case {number:02}",) for number in range(13)]
    with caplog.at_level(logging.INFO, "fedshield"):
        drawn = study_figures(make_study(tmp_path / "s", ["case"], cases))
    assert list(drawn) == ["points"]
    assert caplog.messages == ["No figure rounds: 13 lines cannot be told apart; rounds.csv has the numbers"]


def test_a_group_without_rates_is_passed_over(tmp_path: Path) -> None:
    grid = [(case, share) for case in ("FedAvg", "CalFAT", "other") for share in (0.0, 0.4)]
    folder = make_study(tmp_path / "s", ["case", "sharing.fraction"], grid)
    rows = read_results(folder)
    for row in rows:
        if row["case"] == "other":  # evaluated with FGSM alone
            row.update({"pgd-20": "", "worst": row["fgsm"]})
        if row["case"] == "CalFAT":
            row.update({"natural": "", "fgsm": "", "pgd-20": "", "worst": ""})
    write_csv(folder / "results.csv", list(rows[0]), rows)
    figure = study_figures(folder)["over-sharing.fraction"]
    assert [set(lines(panel)) for panel in figure.panels] == [{"FedAvg", "other"}, {"FedAvg"}]
    assert encoding(figure.panels[0], "line", "color")["scale"]["domain"] == ["FedAvg", "other"]


def test_the_attack_of_a_figure_never_changes_by_itself(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["case"], [("FedAvg",), ("CalFAT",)])
    for name in ("results", "rounds"):  # as where steps are too small, FGSM hurts more
        text = (folder / f"{name}.csv").read_text()
        assert text.count("fgsm,pgd-20") == 1
        rows = [line.split(",") for line in text.splitlines()]
        at = rows[0].index("fgsm")
        for row in rows[1:]:
            row[at], row[at + 1] = row[at + 1], row[at]
        (folder / f"{name}.csv").write_text("\n".join(",".join(row) for row in rows) + "\n")
    for figure in study_figures(folder).values():
        assert [panel.title for panel in figure.panels] == ["natural", "robust (pgd-20)"]
    arrays = {
        "labels": np.arange(3),
        "attacks": np.array(["natural", "fgsm", "pgd-20"]),
        "predictions": np.array([[0, 1, 2], [1, 2, 0], [0, 1, 0]]),
        "classes": np.array(["a", "b", "c"]),
    }
    assert confusion(arrays)[0] == "pgd-20"


def test_a_point_without_figures_stands_in_tables_figures_and_report(tmp_path: Path) -> None:
    cases = [("FedAvg",), ("diverges",), ("begun",)]
    folder = make_study(tmp_path / "s", ["case"], cases, title='"T"', reference='{ case = "FedAvg" }')
    rows = [{**row, "why": ""} for row in read_results(folder)]
    for row in rows:
        if row["case"] == "diverges" or (row["case"], row["seed"]) == ("begun", "3"):
            gone = {column: "" for column in HEAD if column != "seed"}
            row |= {**gone, "why": "failed: too few replies" if row["case"] == "diverges" else "not finished"}
    write_csv(folder / "results.csv", list(rows[0]), rows)
    accuracy, _, differences, _ = make_tables(folder)
    assert [row[:3] for row in accuracy.rows] == [
        ["FedAvg", "3", "100"], ["diverges", "0 of 3", "–"], ["begun", "2 of 3", "100"]
    ]  # fmt: skip
    assert accuracy.notes[1:4] == [
        "5 of 9 runs have figures; 1 of 3 points have them for all seeds",
        "no figures of diverges: failed: too few replies",
        "no figures of begun (1 of 3 runs): not finished",
    ]
    assert differences.rows[0][:3] == ["diverges", "0 of 3", "–"]
    drawn = study_figures(folder)
    assert all(caption(figure).count("no figures of: diverges") == 1 for figure in drawn.values())
    assert encoding(drawn["points"].panels[0], "point", "y")["scale"]["domain"][-1] == "diverges"
    assert drawn_text(drawn["points"]).count("no figures") == 2
    page = study_page(folder)
    assert (page.facts[0].value, page.facts[0].detail) == ("5 of 9", "2 of 3 points")
    assert page.warnings == accuracy.notes[1:4]
    charts = [block for section in page.sections for block in section.blocks if isinstance(block, Chart)]
    assert charts
    assert all("no figures of: diverges" in chart.caption for chart in charts)
    assert any('"diverges"' in json.dumps(chart.spec) for chart in charts)
    write_csv(folder / "results.csv", list(rows[0]), [row for row in rows if row["case"] == "diverges"])
    with pytest.raises(FedShieldError, match=r"no run is finished yet \(.* failed: too few replies\)"):
        read_results(folder)


def test_of_two_keys_colors_say_the_first_and_dashes_the_second(tmp_path: Path) -> None:
    grid = [(case, scheme) for case in ("FedAvg", "CalFAT", "sharing") for scheme in ("paper", "iid")]
    figure = study_figures(make_study(tmp_path / "s", ["case", "partition.scheme"], grid))["rounds"]
    panel = figure.panels[0]
    assert len(lines(panel)) == 6
    for place, at in (("paper", 0), ("iid", 1)):
        own = {row["name"]: (row["first"], row["second"]) for row in rows(panel) if row["name"].endswith(place)}
        assert {second for _, second in own.values()} == {place}
        assert len({first for first, _ in own.values()}) == 3
        dash = encoding(panel, "line", "strokeDash")
        assert (dash["field"], dash["scale"]["domain"][at]) == ("second", place)
    assert dash["scale"]["range"][0] != dash["scale"]["range"][1]
    for channel, kind in (("color", "line"), ("shape", "point")):
        found = encoding(panel, kind, channel)
        assert (found["field"], found["scale"]["domain"]) == ("first", ["sharing", "CalFAT", "FedAvg"])
        assert len(set(found["scale"]["range"])) == 3
    texts = drawn_text(figure)
    names = ["sharing", "CalFAT", "FedAvg", "paper", "iid"]
    assert [text for text in texts if text in names] == names
    assert not bands(panel)  # six would hide each other
    assert "band" not in caption(figure)


def test_accuracy_starts_at_0_and_chance_is_drawn_where_it_is_known(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["sharing.fraction"], [(0.0,), (0.5,)])
    for known in (False, True):
        if known:
            add_labels(folder, "sharing.fraction", {"0": [[1, 2]], "0.5": [[2, 1]]})
        drawn = study_figures(folder)
        for name in ("rounds", "over-sharing.fraction"):
            for panel in drawn[name].panels:
                assert encoding(panel, "line", "y")["scale"]["domain"][0] == 0
                chance = [rule["encoding"]["y"]["datum"] for rule in layers(panel.drawing.to_dict(), "rule")]
                assert chance == ([50] if known else [])


def test_figures_that_are_no_longer_drawn_are_removed(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["case"], [("a",), ("b",)], rounds=1)
    (folder / "figures").mkdir()
    for name in ("over-sharing.fraction.png", "rounds.svg", "labels.png", "points.png", "my own.png"):
        (folder / "figures" / name).write_text("old")
    plot_study(folder)
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        *("my own.png", "points.pdf", "points.png", "points.svg")
    ]


def test_rounds_have_a_line_and_a_band_for_each_point(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["model.activation"], [("relu",), ("tanh",)], command='"centralized"')
    drawn = study_figures(folder)
    left, right = drawn["rounds"].panels
    assert lines(left)["relu"] == ([1, 2], pytest.approx([mean(0) / 2, mean(0)]))
    assert lines(right)["tanh"] == ([1, 2], pytest.approx([mean(1) / 4, mean(1) / 2]))
    assert bands(left)[1] == pytest.approx((50 * natural(1, 1), 100 * natural(1, 3)))
    assert encoding(left, "line", "x")["title"] == "epoch"
    color = encoding(left, "line", "color")
    assert color["scale"]["domain"] == ["tanh", "relu"]  # as they end, from the top
    assert color["legend"]["title"] == "activation function"


def test_a_round_that_not_all_seeds_have_reached_makes_no_step(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["model.activation"], [("relu",), ("tanh",)])
    rounds = folder / "rounds.csv"
    rows = rounds.read_text().splitlines()
    rounds.write_text("\n".join(row for row in rows if not row.startswith("relu-seed3,relu,3,2")) + "\n")
    drawn = study_figures(folder)
    assert lines(drawn["rounds"].panels[0])["relu"] == ([1], pytest.approx([mean(0) / 2]))


def test_words_are_drawn_as_rows_with_the_most_robust_on_top(tmp_path: Path) -> None:
    points = [("relu",), ("tanh",), ("gelu",)]
    folder = make_study(tmp_path / "s", ["model.activation"], points, reference='{ "model.activation" = "tanh" }')
    drawn = study_figures(folder)
    figure = drawn["points"]
    left, right = figure.panels
    assert encoding(left, "point", "y")["scale"]["domain"] == ["gelu", "tanh", "relu"]
    means = {row["name"]: row["mean"] for row in rows(left) if "mean" in row}
    assert means == {name: f"{mean(place):.1f}" for place, (name,) in enumerate(points)}
    diamonds, rings = layers(right.drawing.to_dict(), "point")
    assert (diamonds["mark"]["shape"], diamonds["encoding"]["x"]["aggregate"]) == ("diamond", "mean")
    assert "aggregate" not in rings["encoding"]["x"]
    found = {name: [row["accuracy"] for row in rows(right) if row["name"] == name] for (name,) in points}
    assert [sum(own) / 3 for own in found.values()] == pytest.approx([mean(0) / 2, mean(1) / 2, mean(2) / 2])
    seeds = sorted(row["accuracy"] for row in rows(left) if row["name"] == "gelu")
    assert seeds == pytest.approx([100 * natural(2, seed) for seed in SEEDS])
    (dashed,) = layers(right.drawing.to_dict(), "rule")
    assert dashed["encoding"]["x"]["datum"] == pytest.approx(mean(1) / 2)
    assert dashed["mark"]["strokeDash"]
    assert "dashed: tanh" in caption(figure)


def test_labels_have_a_panel_for_each_division_that_differs(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["partition.scheme"], [("iid",), ("paper",), ("shards",)])
    halves, apart = [[5, 5], [5, 5]], [[10, 0], [0, 10]]
    add_labels(folder, "partition.scheme", {"iid": halves, "paper": apart, "shards": apart})
    drawn = study_figures(folder)
    left, right = drawn["labels"].panels
    assert (left.title, right.title) == ("iid", "paper, shards")
    # Cats and dogs of the two clients, of the first seed.
    assert counts(right) == {
        ("client 0 (10)", "cat"): 10, ("client 0 (10)", "dog"): 0,
        ("client 1 (10)", "cat"): 0, ("client 1 (10)", "dog"): 10,
    }  # fmt: skip
    assert set(counts(left).values()) == {5}
    assert encoding(left, "rect", "x")["sort"] == ["cat", "dog"]


def test_files_are_made_from_the_csv_alone_and_are_the_same_each_time(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["case"], [("$case 1$",), ("$case 10$",)])
    add_labels(folder, "case", {"a": [[1, 2]], "b": [[2, 1]]})
    files = plot_study(folder)
    assert [path.name for path in files] == [
        f"{name}.{kind}" for name in ("rounds", "points", "labels") for kind in ("png", "svg", "pdf")
    ]
    again = {path: path.read_bytes() for path in files}
    assert {path: path.read_bytes() for path in plot_study(folder)} == again  # a PDF only where its figure has changed
    before = {path: content for path, content in again.items() if path.suffix != ".pdf"}
    assert all(content.startswith(b"\x89PNG") for path, content in before.items() if path.suffix == ".png")
    assert all(len(content) < 300_000 for content in before.values())
    svg = (folder / "figures" / "points.svg").read_text()
    assert "$case 10$" in svg  # text is text, and dollars are dollars
    assert not re.search(r"<dc:date>", svg)
    for path in files:
        path.unlink()
    os.environ["TZ"] = "Asia/Tokyo"
    time.tzset()
    try:
        assert {path: path.read_bytes() for path in plot_study(folder) if path.suffix != ".pdf"} == before
    finally:
        del os.environ["TZ"]
        time.tzset()


def test_a_study_of_divisions_has_labels_only(tmp_path: Path) -> None:
    (folder := tmp_path / "s").mkdir()
    columns = ["run", "case", "seed", "clients", "images", "smallest", "largest", "classes", "distance", "code"]
    write_csv(folder / "results.csv", columns, [{"run": "a", "case": "iid", "seed": 1, "clients": 2}])
    add_labels(folder, "case", {"iid": [[5, 5]]})
    assert [path.name for path in plot_study(folder)] == ["labels.png", "labels.svg", "labels.pdf"]


def test_a_study_without_attacks_or_evaluations_is_drawn_as_far_as_it_goes(tmp_path: Path) -> None:
    (folder := tmp_path / "s").mkdir()
    columns = ["run", "case", "seed", "rounds", "n", "natural", "worst", "seconds", "code", "processor", "threads"]
    rows = [{"run": name, "case": name, "seed": 1, "rounds": 1, "n": 10, "natural": 0.5} for name in "ab"]
    write_csv(folder / "results.csv", columns, rows)
    drawn = study_figures(folder)
    assert [panel.title for panel in drawn["points"].panels] == ["natural"]
    write_csv(folder / "results.csv", columns, [{**row, "n": None, "natural": None} for row in rows])
    assert plot_study(folder) == []


@pytest.mark.parametrize(
    ("content", "expected"), [(None, "not found"), ("", "empty"), ("run,seed\n", "no column"), (HEAD, "no run")]
)
def test_results_that_cannot_be_drawn_are_one_line(tmp_path: Path, content: Any, expected: str) -> None:
    if content is not None:
        text = content if isinstance(content, str) else ",".join(["run", *content]) + "\n"
        (tmp_path / "results.csv").write_text(text)
    with pytest.raises(FedShieldError, match=expected) as caught:
        plot_study(tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "figures").exists()


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    folder = make_study(tmp_path / "s", ["case"], [("a",), ("b",)])
    (folder / "figures").write_text("in the way")
    with pytest.raises(FedShieldError, match="figures"):
        plot_study(folder)


def test_eleven_lines_differ_with_colors_and_without() -> None:
    labels = [str(number) for number in range(11)]
    names = [(label, "") for label in labels]
    found = [{"name": name, "first": name, "second": "", "x": 1, "seed": 1, "accuracy": 5.0} for name, _ in names]
    panel = Panel("", draw_lines(found, Lines("round", names, labels, 50)), 100)
    color, dash = (encoding(panel, "line", channel)["scale"]["range"] for channel in ("color", "strokeDash"))
    assert len(set(zip(color, map(tuple, dash), strict=True))) == 11
    assert len(set(encoding(panel, "point", "shape")["scale"]["range"])) == 11
    ordered = Figure([Panel("", draw_lines(found, Lines("round", names, labels, 50, ordered=True)), 100)], "", "", 0, 1)
    svg = vl_convert.vegalite_to_svg(file_spec(ordered))
    dots = re.findall(r'<path aria-label="round: 1; [^>]* fill="([^"]+)"', svg)
    assert len(dots) == len(set(dots)) == 11


def test_forty_classes_have_a_name_each() -> None:
    names = [f"class{number}" for number in range(40)]
    assert set(names) <= set(drawn_text(partition(*names)))


def make_evaluation(run_dir: Path, curve: bool = True, examples: int = 3) -> Path:
    """Write an evaluation of nine images of three classes: PGD takes every second right one for the next class."""
    labels = np.repeat(np.arange(3), 3)
    attacked = np.where(np.arange(9) % 2, (labels + 1) % 3, labels).astype(np.int16)
    predictions = {"natural": labels.astype(np.int16), "fgsm": labels.astype(np.int16), "pgd-20": attacked}
    images = np.full((examples, 3, 16, 16), 100, np.uint8)
    shown = {
        "example_images": images,
        "example_adversarial": (images / 255 + 8 / 255).astype(np.float32),
        "example_labels": np.arange(examples),
        "example_natural": np.arange(examples),
        "example_attacked": np.zeros(examples, np.int64),
        "example_attack": np.array("pgd-20"),
    }
    of = {"classes": np.array(["cat", "dog", "$bird"]), "images": np.array("")}
    arrays = Evaluation(labels, predictions, 3).arrays()
    ArrayStore(run_dir / "evaluations").save("predictions-1", {**of, **arrays, **shown})
    points = [
        {"epsilon-255": epsilon, "attack": "pgd-20", "value": value, "interval": [value - 0.1, value + 0.2]}
        for epsilon, value in ((8.0, 0.3), (0.0, 0.7))
    ]
    rate = {"value": 0.5, "interval": [0.4, 0.6]}
    rates = {"natural": rate, "robust": {"fgsm": rate, "pgd-20": rate}, "worst": rate}
    record: dict[str, Any] = {"round": 4, "epsilon-255": 8.0, "n": 9, **rates, "predictions": "predictions-1"}
    record["classes"] = ["cat", "dog", "$bird"]
    (run_dir / "evaluations.jsonl").write_text(json.dumps({**record, **({"curve": points} if curve else {})}) + "\n")
    return run_dir


def test_the_confusion_is_that_of_the_last_attack(tmp_path: Path) -> None:
    drawn = evaluation_figures(make_evaluation(tmp_path))
    figure = drawn["confusion"]
    (panel,) = figure.panels
    shares = {(row["down"], row["across"]): 100 * row["share"] for row in rows(panel)}
    # Of the images 0 to 8, the odd ones are taken for the next class: 1 | 3, 5 | 7.
    expected = np.array([[200, 100, 0], [0, 100, 200], [100, 0, 200]]) / 3
    names = ["cat", "dog", "$bird"]
    assert shares == {(names[i], names[j]): pytest.approx(share) for (i, j), share in np.ndenumerate(expected)}
    cells = [text for text in drawn_text(figure) if text.endswith("%")]
    assert sorted(cells) == ["33%"] * 3 + ["67%"] * 3
    assert "under pgd-20" in figure.title
    assert "5 of n = 9" in caption(figure)
    assert caption(figure).endswith("; chance: 33.3 % (always the most frequent class)")
    assert encoding(panel, "rect", "y")["sort"] == names


def test_the_curve_has_its_values_and_intervals(tmp_path: Path) -> None:
    drawn = evaluation_figures(make_evaluation(tmp_path))
    (panel,) = drawn["epsilon"].panels
    assert lines(panel) == {"pgd-20": ([0, 8], pytest.approx([70, 30]))}
    ends = [[row["low"], row["high"]] for row in rows(panel)]
    assert ends == [pytest.approx([60, 90]), pytest.approx([20, 50])]
    assert bands(panel) == [pytest.approx((20, 90))]
    marks = [rule["encoding"] for rule in layers(panel.drawing.to_dict(), "rule")]
    assert [each["y"]["datum"] for each in marks if "y" in each] == [pytest.approx(100 / 3)]
    assert [each["x"]["datum"] for each in marks if "x" in each] == [8]
    assert drawn["epsilon"].title.split()[-5:] == ["under", "pgd-20,", "after", "round", "4"]


def test_examples_show_image_change_and_both_predictions(tmp_path: Path) -> None:
    drawn = evaluation_figures(make_evaluation(tmp_path))
    figure = drawn["examples"]
    cells = {(row["line"], row["column"]): row for row in rows(figure.panels[0])}
    assert len(cells) == 9
    pixels = {}
    for line in ("image", "added, ×10", "adversarial"):
        content = base64.b64decode(cells[line, 1]["url"].removeprefix("data:image/png;base64,"))
        (pixels[line],) = np.unique(np.asarray(Image.open(io.BytesIO(content))))
    assert pixels == {"image": 100, "added, ×10": round(255 * (0.5 + 10 * 8 / 255)), "adversarial": 108}
    words = [cells["image", column]["words"] for column in range(3)]
    assert words == ["right:\ncat", "right:\ndog", "right:\n$bird"]
    words = [cells["adversarial", column]["words"] for column in range(3)]
    assert words == ["right:\ncat", "wrong:\ncat", "wrong:\ncat"]
    assert [cells["adversarial", column]["good"] for column in range(3)] == [True, False, False]
    assert "at most 8/255 a pixel" in caption(figure)


def test_an_evaluation_has_the_same_files_each_time_and_leaves_out_what_it_lacks(tmp_path: Path) -> None:
    run = make_evaluation(tmp_path)
    files = plot_evaluation(run)
    assert [path.stem for path in files[::2]] == ["confusion", "examples", "epsilon"]
    before = [path.read_bytes() for path in files]
    assert [path.read_bytes() for path in plot_evaluation(run)] == before
    (run / "figures" / "accuracy.png").write_text("of training")
    assert [path.stem for path in plot_evaluation(make_evaluation(run, curve=False, examples=0))[::2]] == ["confusion"]
    # Others of the evaluation before would pass for figures of this one.
    assert {path.stem for path in (run / "figures").iterdir()} == {"accuracy", "confusion"}


def test_a_run_without_an_evaluation_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(FedShieldError, match="run: fedshield evaluate"):
        plot_evaluation(tmp_path)


@pytest.mark.parametrize("clients", [0, 3])
def test_a_run_is_drawn_with_clients_and_without(tmp_path: Path, clients: int) -> None:
    def rate(value: float) -> dict[str, Any]:
        return {"value": value, "interval": [value - 0.1, value + 0.1]}

    evaluated = {"n": 50, "natural": rate(0.5), "robust": {"fgsm": rate(0.25)}, "worst": rate(0.25)}
    records = [{"round": 1, "seconds": 1.0, "evaluation": None}, {"round": 2, "seconds": 1.0, "evaluation": evaluated}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if clients:
        described = {"classes": ["cat", "dog"], "clients": [[client, 4] for client in range(clients)], "test": [40, 10]}
        (tmp_path / "partition.json").write_text(json.dumps(described))
    else:
        (tmp_path / "environment.json").write_text(json.dumps({"kind": "centralized"}))
    plot_run(tmp_path)
    made = {path.name for path in (tmp_path / "figures").iterdir()}
    names = ("accuracy", "partition") if clients else ("accuracy",)
    assert made == {f"{name}.{kind}" for name in names for kind in ("png", "svg")}
    figure = accuracy_figure({"a run": tmp_path})
    (panel,) = figure.panels
    assert caption(figure) == "Bands: 95 % intervals of the test sample; n = 50 test images"
    assert lines(panel) == {"natural": ([2], [50]), "fgsm": ([2], [25])}
    drawn = [rule["encoding"]["y"]["datum"] for rule in layers(panel.drawing.to_dict(), "rule")]
    assert drawn == ([80] if clients else [])  # 40 of the 50 test images are of one class, where that is known
    assert bands(panel)[0] == pytest.approx((40, 60))
    assert encoding(panel, "line", "x")["title"] == ("round" if clients else "epoch")
    assert encoding(panel, "line", "y")["scale"]["domain"][0] == 0
    if clients:
        found = counts(partition_figure(described).panels[0])
        assert [[count for (_, name), count in found.items() if name == kind] for kind in ("cat", "dog")] == [
            [0, 1, 2], [4, 4, 4]
        ]  # fmt: skip


def partition(*classes: str) -> Figure:
    return partition_figure({"classes": list(classes), "clients": [[3] * len(classes), [5] * len(classes)]})


@pytest.mark.parametrize("name", ["a class with a very long name " * 8, "unbroken" * 30, "_x", "__"])
def test_a_class_of_any_name_stands_on_the_axis_and_leaves_room_for_the_cells(name: str, tmp_path: Path) -> None:
    figure = partition("cat", name, "dog")
    assert [text for text in drawn_text(figure) if text[:2] == name[:2]]
    png, _ = save(figure, tmp_path / "figure")
    plain, _ = save(partition("cat", "owl", "dog"), tmp_path / "plain")
    (width, height), (usual, low) = size(png), size(plain)
    assert width < 1.3 * usual
    assert height < low + 200


def test_letters_that_no_font_has_are_told_in_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    logging.getLogger("fedshield").propagate = True
    caplog.set_level(logging.INFO, "fedshield")
    letters = "\U00011103"  # of a script that none of the fonts has that are looked for
    save(partition(f"猫{letters}", "dog"), tmp_path / "figure")
    assert [str(warning.message) for warning in recwarn if "Glyph" in str(warning.message)] == []
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith(f"{tmp_path}/figure.png: no font has ")
    assert "猫" in (tmp_path / "figure.svg").read_text()


def test_a_class_with_a_long_name_leaves_room_for_the_confusion(tmp_path: Path) -> None:
    arrays = Evaluation(np.array([0, 1]), {"natural": np.array([0, 1], np.int16)}, 2).arrays()
    widths = []
    for name in ("dog", "unbroken" * 30):
        figure = confusion_figure({**arrays, "classes": np.array(["cat", name])}, "run")
        widths.append(size(save(figure, tmp_path / name[:5])[0])[0])
    assert widths[1] < 1.3 * widths[0]


def test_letters_that_xml_cannot_hold_are_spelled_out(tmp_path: Path) -> None:
    svg = save(partition("cat\x1b[2J", "\ud800\x00"), tmp_path / "figure")[1].read_text()
    assert "cat\\x1b[2J" in svg
    assert "\\ud800\\x00" in svg


def test_runs_beside_each_other_are_drawn_by_their_own_command(tmp_path: Path) -> None:
    def plots(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "simulations.plots", *map(str, words)]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.jsonl").write_text("")
    assert plots(tmp_path / "new" / "both", f"first={tmp_path}/one", f"second={tmp_path}/two").returncode == 0
    text = (tmp_path / "new" / "both.svg").read_text()
    assert all(f">{title}<" in text for title in ("first", "second"))
    done = plots(tmp_path / "both", f"first={tmp_path}/gone")
    assert done.returncode == 1
    assert done.stderr == (f"simulations.plots: {tmp_path}/gone: no metrics.jsonl in it; is this a run directory?\n")
    assert plots().stderr == "simulations.plots: usage: python -m simulations.plots STEM TITLE=RUN_DIR ...\n"


def test_accuracy_is_drawn_against_what_the_models_tell_and_against_epsilon(tmp_path: Path) -> None:
    told = {"plain": (0.8, ""), "noise": (0.6, 40.0), "alone": ("", 2.0)}
    found = [
        {
            **{
                "run": f"{name}-{seed}",
                "case": name,
                "seed": seed,
                "rounds": 1,
                "n": 100,
                "seconds": 1.0,
                "threads": 1,
            },
            **{"natural": 0.1 * seed, "pgd-20": 0.05 * seed, "worst": 0.05 * seed, "chance": 0.1},
            **{"auc-pool": auc and auc - 0.01 * seed, "epsilon": epsilon},
        }
        for name, (auc, epsilon) in told.items()
        for seed in SEEDS
    ]
    (folder := tmp_path / "s").mkdir()
    columns = ["run", "case", "seed", "rounds", "n", "natural", "pgd-20", "worst", "seconds", "code", "processor"]
    write_csv(folder / "results.csv", [*columns, "threads", "chance", "auc-pool", "epsilon"], found)
    drawn = study_figures(folder)
    assert drawn.keys() == {"points", "privacy", "epsilon"}
    assert [panel.title for panel in drawn["privacy"].panels] == [
        f"{measure}, AUC, images of the pool" for measure in ("natural", "robust (pgd-20)")
    ]
    marks = {row["name"]: row for row in rows(drawn["privacy"].panels[1])}
    assert marks.keys() == {"plain", "noise"}
    mark = {name: pytest.approx(value) if name != "name" else value for name, value in marks["noise"].items()}
    assert mark == {
        **{"name": "noise", "seeds": 3, "x": 0.58, "x-low": 0.57, "x-high": 0.59},
        **{"accuracy": 10.0, "low": 5.0, "high": 15.0},
    }
    assert drawn["privacy"].caption.endswith("2 of 3 points have an AUC")
    assert {row["x"] for row in rows(drawn["epsilon"].panels[0])} == {2.0, 40.0}
    sheet = next(sheet for sheet in make_tables(folder) if sheet.title.startswith("What the models tell"))
    assert [list(row) for row in sheet.rows] == [
        ["plain", "0.780 ± 0.010 (0.770–0.790)", "–"],
        ["noise", "0.580 ± 0.010 (0.570–0.590)", "40.00"],
        ["alone", "–", "2.00"],
    ]
    assert "Figures" in {section.title for section in study_page(folder).sections}
    saved = [path.name for path in plot_study(folder)]
    assert {"privacy.png", "epsilon.svg"} <= set(saved)
