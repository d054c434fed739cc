"""Adversarial attacks: names and budgets without torch, and what runs them."""
