"""Benchmarks: what they measure is in each module's docstring; nothing here is installed."""
