"""Distil flow-matching text-to-image teachers into few-step generators."""

__version__ = "0.1.0"
