"""Datasets, image folders, and who holds which image."""
