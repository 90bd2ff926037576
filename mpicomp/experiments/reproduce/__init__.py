"""The papers' experiments, run again by the normal runtime: runs, claims with verdicts, figures. A paper is one file in `papers/`."""
