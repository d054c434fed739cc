"""What runs and studies have left, for a reader: headline figures, tables, comparison, figures and the report."""
