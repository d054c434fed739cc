"""What a study's points cost, and their worst clients, from rows worked out by hand."""

from simulations.reports.study_costs import cost_sheets


def _row(case: str, seed: int, **figures: object) -> dict[str, str]:
    found = {"natural": 0.5, "worst": 0.25, "seconds": 90.0, "why": "", **figures}
    return {"run": f"{case}-{seed}", "case": case, "seed": str(seed)} | {key: str(x) for key, x in found.items()}


def test_a_point_has_its_mean_and_an_older_run_has_a_dash() -> None:
    rows = [
        _row("new", 1, **{"worst-client-natural": 0.2, "worst-client": 0.1, "megabytes-sent": 3.0}),
        _row("new", 2, **{"worst-client-natural": 0.4, "worst-client": 0.1, "megabytes-sent": 3.0}),
        _row("old", 1, seconds=30.0),
    ]
    (sheet,) = cost_sheets(rows)
    assert sheet.header[1:] == ["worst client, natural %", "worst client, worst %", "minutes", "MB sent", "MB received"]
    assert sheet.rows == [
        ["new", "30.0 ± 14.1 (20.0–40.0)", "10.0", "1.5", "3.0", "–"],
        ["old", "–", "–", "0.5", "–", "–"],
    ]


def test_a_study_without_clients_has_no_such_table() -> None:
    assert cost_sheets([_row("only", 1)]) == []
