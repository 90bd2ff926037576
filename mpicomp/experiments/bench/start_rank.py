"""One rank of a job that `mpicomp bench start` measures: a run, and when its phases were over."""

from __future__ import annotations

import json
import sys
import time


def rank(arrived: float) -> None:
    """Run the configuration that the command line names; rank 0 prints what all ranks noted, as JSON. `arrived` is when Python began."""
    from ..runtime import Comm, Config, cache_use, run, world

    seen: dict[str, float] = {"arrived": arrived, "imported": time.time()}
    comm = world()
    seen["connected"] = time.time()
    marks: list[float] = []
    result = run(Config.load(sys.argv[1]), comm=comm, progress=lambda row: marks.append(time.time()))
    if marks:
        took = result.summary["seconds"]
        seen |= {"setup": took["setup"], "warmup": took["warmup"], "evaluated": marks[0], "finished": marks[1]}
    uses = cache_use()
    seen["loaded"], seen["compiled"] = sum(use.loaded for use in uses), sum(use.compiled for use in uses)
    seen["processor"] = time.process_time()
    rows = Comm(comm).gather_json(seen) if comm.Get_size() > 1 else [seen]
    if rows is not None:
        print(json.dumps(rows))
