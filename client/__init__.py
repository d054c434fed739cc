"""The federation's client: local adversarial training."""
