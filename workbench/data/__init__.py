"""Prompts and image-text pairs, wherever they lie: files, folders, tar shards, datasets.

:mod:`~workbench.data.prompts` and :mod:`~workbench.data.pairs` read them; everything on the Hugging
Face hub, and what its ``datasets`` library saved, is read by that library.
"""
