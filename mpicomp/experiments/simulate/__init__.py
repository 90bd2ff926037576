"""Rounds on a simulated network: the calls that an exchange would make at any size, replayed by SimGrid."""
