"""Rangamani, Lindegaard, Galanti and Poggio (2023), one file per experiment."""
