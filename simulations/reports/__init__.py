"""Results of runs and studies for a reader: headline figures, tables, comparison, figures and the report."""
