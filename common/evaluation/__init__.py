"""Natural and robust accuracy: measured, kept, and questioned."""
