"""Trained students, and any model that draws: load, sample, export."""
