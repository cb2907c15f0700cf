"""Xu, Liu, Quantifying the Variability Collapse of Neural Networks (2023)."""
