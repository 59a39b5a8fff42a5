"""Runs as processes of their own, on this machine or with Slurm."""
