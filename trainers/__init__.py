"""Trains models of expression, valence and arousal on a published dataset. Empty until the trainers land."""
