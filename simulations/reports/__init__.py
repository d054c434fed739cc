"""Reports: one HTML file for a run or a study, which needs nothing else."""
