"""Figures of several runs beside each other: ``python -m simulations.plots STEM TITLE=RUN_DIR ...``.

The command is printed with results, so its name stays.
"""

from simulations.reports.figures.run_figures import main

if __name__ == "__main__":
    main()
