"""Studies: reading the results of runs and comparing them. Works from the files alone."""
