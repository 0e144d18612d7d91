"""Turns trained models into SavedModels with three outputs, checks and describes them, and predicts with them."""
