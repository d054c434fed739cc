"""Networks from pixels in [0, 1] to logits."""
