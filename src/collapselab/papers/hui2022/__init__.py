"""Hui, Belkin, Nakkiran (2022), Limitations of neural collapse for understanding generalization in deep learning."""
