"""What all commands share: the options of a run, tables, progress, units."""
