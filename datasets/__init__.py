"""Datasets of faces: the TFDS builder, and faces drawn by code."""
