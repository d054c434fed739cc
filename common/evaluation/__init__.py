"""Natural and robust accuracy: measured, stored, and checked for plausibility."""
