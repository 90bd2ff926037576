"""Runs: configuration, round loop, metrics, results."""
