"""SLURM: batch scripts, and what became of the jobs."""
