"""Adversarial attacks by name, through torchattacks."""
