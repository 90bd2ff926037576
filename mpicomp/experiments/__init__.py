"""What a study author needs beside the runtime: benchmarks, network and SLURM labs, studies, the papers' experiments.

All of it uses the runtime through one door, `experiments.runtime`, and the command line reaches it through one, `experiments.commands`.
"""
