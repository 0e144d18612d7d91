"""Turns trained models into SavedModels with three outputs. Empty until the exporter lands."""
