"""Curves of finished runs: which run is which, what is drawn against what, and how it looks on paper and in a terminal.

Nothing here reads a run's directory or starts a run: `Run` is a record of numbers and texts, so the runtime and the commands share it.
"""
