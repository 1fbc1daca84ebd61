"""Datasets: recognised, read, checked, augmented."""
