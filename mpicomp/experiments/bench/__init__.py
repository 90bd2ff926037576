"""Benchmarks: functions of a communicator, warmed up, repeated, returning numbers. The command line prints them."""
