"""Write the golden frames: `python tests/golden/generate.py`, by hand, only for a new codec or version of the format.

A released frame must decode for ever, to the same bits. So frames that exist are kept, and missing ones are added.
"""

import json
from pathlib import Path

import numpy as np

from mpicomp.compressors import compressors
from mpicomp.kernels.random import uplink_keys
from mpicomp.wire import HEADER_NBYTES, dtype_flag, write_header

HERE = Path(__file__).parent
CASES = [
    ("identity", 5, 2),
    ("topk:k=1", 123, 2),
    ("topk:k=20", 300, 2),
    ("topk:k=30", 64, 2),
    ("topk:k=30,values=4", 300, 2),
    ("topk:k=40,values=2,bucket=8,rounding=stochastic", 200, 2),
    ("topk:k=20,values=sign", 200, 2),
    ("topk:k=20,values=bfloat16", 200, 2),
    ("topk:k=20,values=bfloat16,rounding=stochastic", 200, 2),
    ("chunked-topk:k=12,chunk=64,values=8", 150, 2),
    ("randk:k=30,values=4", 64, 3),
    ("randk:k=30,values=sign,sampling=uniform", 64, 3),
    ("permk:values=4", 90, 3),
    ("permk:values=bfloat16,layout=uniform", 90, 3),
    ("chunked-topk:k=6,chunk=64", 150, 2),
    ("chunked-topk:k=6,chunk=64,table=chunk", 150, 2),
    ("chunked-topk:k=3,chunk=64,values=exact", 150, 2),
    ("randk:k=4", 21, 3),
    ("randk:k=4,mask=shared", 21, 2),
    ("randk:k=4,sampling=stratified", 21, 2),
    ("randk:k=4,sampling=uniform", 21, 2),
    ("permk", 10, 4),
    ("permk", 4, 6),
    ("permk:layout=uniform", 10, 4),
    ("permk:layout=uniform", 4, 6),
    ("sign", 21, 2),
    ("sign:norm=l2", 21, 2),
    ("qsgd:bits=4", 21, 2),
    ("qsgd:levels=5,norm=max,bucket=8", 21, 2),
    ("qsgd:bits=12", 21, 2),
    ("qsgd:levels=1,entropy=true", 90, 2),
    ("natural", 21, 2),
    ("sign:norm=unit", 21, 2),
    ("dynamic:bits=6", 21, 2),
    ("dynamic:bits=11,norm=l2,bucket=16", 21, 2),
    ("ternary", 21, 2),
    ("ternary:scale=unit", 21, 2),
    ("integers:levels=3", 21, 2),
    ("natural-dithering:levels=4", 21, 2),
    ("eden:bits=3", 32, 2),
    ("eden:bits=3", 21, 2),
    ("eden:bits=2,rotation=shared,scale=mse", 64, 2),
    ("eden:bits=2,rotation=shared,scale=mse", 21, 2),
    ("drive", 16, 2),
    ("drive", 21, 2),
    ("cast", 21, 2),
    ("cast:to=bfloat16", 21, 2),
    ("cq", 21, 3),
    ("cq:levels=5,rotate=true", 32, 3),
    ("cq:levels=5,rotate=true", 21, 3),
    ("cq:rotate=true,clip=true", 256, 3),
    ("iq:rotate=true", 64, 2),
    ("cq:levels=16,entropy=true", 40, 3),
    ("cq:variant=sign-magnitude,entropy=true", 21, 2),
    ("iq:levels=4", 21, 2),
    ("permk-cq:parts=2,levels=3", 21, 5),
    ("uniform", 400, 2),
    ("uniform:bits=12", 70, 2),
    ("uniform:bits=1", 300, 2),
    ("uniform:bits=2,rounding=nearest", 400, 2),
]
SEED, ROUND = 2024, 17


def file_name(spec: str, d: int, n: int, wire: str) -> str:
    """The name of a frame's files, without suffix."""
    return f"{spec.replace(':', '-').replace(',', '-').replace('=', '')}_d{d}_n{n}_{wire}"


def write_frame(spec: str, d: int, n: int, wire: str) -> None:
    """One frame with the messages of n clients, and beside it what went in and what came out."""
    V = np.random.default_rng(SEED).standard_normal((n, d))
    V[-1, : d // 2] = 0  # fewer entries than k, zeros among the signs
    codec = compressors.create(spec).bind(d, n, wire)
    clients, keys = np.arange(n), uplink_keys(SEED, ROUND)
    frame, decoded = np.zeros(HEADER_NBYTES + n * codec.max_nbytes, np.uint8), np.zeros((n, d))
    end = codec.encode(V, clients, clients, keys, frame, HEADER_NBYTES, np.zeros(2, np.int64))
    write_header(frame, codec.codec_id, dtype_flag(codec.wire_dtype), ROUND, n, end - HEADER_NBYTES)
    codec.decode_add(frame, HEADER_NBYTES, end, clients, clients, np.ones(n), keys, decoded)
    path = HERE / file_name(spec, d, n, wire)
    frame[:end].tofile(path.with_suffix(".bin"))
    record = {
        "spec": spec, "dim": d, "n_clients": n, "wire": wire, "seed": SEED, "round": ROUND,
        "input": V.tolist(), "decoded": decoded.tolist(),
    }  # fmt: skip
    path.with_suffix(".json").write_text(json.dumps(record) + "\n")


def main() -> None:
    """Add the frames that are missing."""
    for spec, d, n in CASES:
        for wire in ("float32", "float64"):
            if not (HERE / file_name(spec, d, n, wire)).with_suffix(".bin").exists():
                write_frame(spec, d, n, wire)


if __name__ == "__main__":
    main()
