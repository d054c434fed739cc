"""What is done against the troubles of a run: from diagnoses to other settings, another start, or other clients."""
