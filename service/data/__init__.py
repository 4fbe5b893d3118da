"""Datasets: reading uploads into columns on disk, and columns back into arrays. No torch."""
