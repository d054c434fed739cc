"""Adversarial training as a user would write it from Flower's PyTorch quickstart and torchattacks."""
