"""Figures of several runs side by side: ``python -m simulations.plots STEM TITLE=RUN_DIR ...``.

Results name this command, so it keeps its name.
"""

import sys
from pathlib import Path

from common.errors import FedShieldError, explain_os_errors
from common.links import refuse_links

_NAME = f"{__package__}.{Path(__file__).stem}"  # also where it runs as __main__


def main(words: list[str]) -> None:
    """Draw several runs side by side.

    Args:
        words: where the figures go, without a suffix, in a folder that is made; and for each run ``TITLE=RUN_DIR``.

    Raises:
        FedShieldError: there are no such words, a directory has no run, or the folder cannot be made.
    """
    if len(words) < 2 or not all("=" in word for word in words[1:]):
        raise FedShieldError(f"usage: python -m {_NAME} STEM TITLE=RUN_DIR ...")
    given = {title: Path(run_dir) for title, _, run_dir in (word.partition("=") for word in words[1:])}
    for path in given.values():
        refuse_links(path)
        if not (path / "metrics.jsonl").exists():
            raise FedShieldError(f"{path}: no metrics.jsonl in it; is this a run directory?")
    from simulations.reports.figures.files import save
    from simulations.reports.figures.run_figures import accuracy_figure

    stem = Path(words[0])
    with explain_os_errors(stem.parent):
        stem.parent.mkdir(parents=True, exist_ok=True)
    save(accuracy_figure(given), stem)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except FedShieldError as error:
        sys.exit(f"{_NAME}: {error}")
