"""Trains models of expression, valence and arousal on a published dataset, scores them, and sets them side by side."""
