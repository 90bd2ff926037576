"""Tuning: which step size, and which options, get to a target soonest; by successive halving over runs that can be resumed."""
