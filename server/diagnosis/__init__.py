"""What goes wrong in training, told by name after each round: from signals to diagnoses."""
