"""Studies: grids of runs, from the file to the results."""
