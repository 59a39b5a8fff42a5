"""Scoring a model that exists: a student, a teacher, any pipeline or a folder of images."""
