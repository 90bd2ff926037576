"""Parts of one's own: a compressor, a method whose uplink sends two kinds of messages in a round, and an exchange that delays frames.

mpicomp launch -n 3 -- run --import examples/own_parts.py --method induced --compressor half --exchange delayed --clients 6 --rounds 50
"""

import time

import numpy as np

import mpicomp as mc
from mpicomp.extend import (
    ClientState,
    Codec,
    Compressor,
    Keys,
    MessageKey,
    Method,
    Oracle,
    P2PExchange,
    Parts,
    ServerState,
    Setting,
    Uplink,
    Vectors,
    register_compressor,
    register_exchange,
    register_method,
)  # fmt: skip


@register_compressor("half")
class Half(Compressor):
    """C(x): every entry in half precision. Its relative error is 2⁻¹¹ at most, so α = 1 − 2⁻²², for |x_j| from 10⁻⁴ to 65504."""

    summary, deterministic, contractive = "half precision", True, True

    def alpha(self, d: int, n: int = 1) -> float:
        return 1.0 - 2.0**-22

    def max_nbytes(self, d: int, dtype: np.dtype) -> int:
        return 2 * d

    def encode(self, x: np.ndarray, out: np.ndarray, key: MessageKey) -> int:
        out[: 2 * x.size] = x.astype(np.float16).view(np.uint8)
        return 2 * x.size

    def decode(self, buf: np.ndarray, out: np.ndarray, key: MessageKey) -> None:
        if buf.size != 2 * out.size:
            raise mc.WireError(f"half: {buf.size} bytes for {out.size} entries")
        out[:] = buf.view(np.float16)


class InducedUplink(Uplink):
    """m_i = C(v_i) + Q(v_i − C(v_i)), v_i = ∇f_i − h_i; h_i += a m_i; g = h + Σ w_i m_i. Horváth and Richtárik 2021, DIANA's shifts."""

    h_i = ClientState()  # a row for each hosted client, on the workers
    h, g = ServerState(), ServerState()  # one row, on the server

    def __init__(self, C: Compressor, Q: Compressor, a: float):
        self.C, self.Q, self.a = C, Q, a

    def prepare(self) -> None:
        self.codecs = self.link.codec(self.C), self.link.codec(self.Q)

    def transmit(self, oracle: Oracle, round: int) -> np.ndarray:
        link, rest, sent = self.link, None, None
        if link.is_worker:
            rest, sent = link.scratch("rest", link.hosted), link.scratch("sent", link.hosted)
            rest[:] = oracle.value() - self.h_i
        if link.is_server:
            self.g[:] = self.h
        for codec in self.codecs:  # C first, then Q on what C has missed: two messages, two draws
            if sent is not None:
                sent[:] = 0
            link.gather(codec, rest, round, self.mean, add_to=sent)
            if link.is_server:
                self.g += self.mean
            if rest is not None and sent is not None:
                rest -= sent
                self.h_i += self.a * sent
        if link.is_server:
            self.h += self.a * (self.g - self.h)
        return self.g


@register_method("induced")
class Induced(Method):
    """DIANA with the induced compressor C + Q(· − C(·)), which is unbiased with ω(1−α); Q is randk."""

    summary, default_compressor, needs = "DIANA with an induced compressor", "topk:fraction=0.1", "contractive"

    def __init__(self, fraction: float = 0.1):
        self.Q = mc.compressor("randk", fraction=fraction)

    def omega(self, setting: Setting) -> float:
        return self.Q.omega(setting.dim, setting.n_clients) * (1.0 - setting.alpha)

    def compose(self, setting: Setting, step_size: float) -> Parts:
        return Parts(InducedUplink(setting.compressor, self.Q, 1.0 / (1.0 + self.omega(setting))))

    def step_size(
        self, setting: Setting
    ) -> float:  # that of DIANA for an unbiased compressor with this ω, conservative
        return 1.0 / (setting.smoothness.L_max * (1.0 + 6.0 * self.omega(setting) / setting.n_clients))


@register_exchange("delayed")
class Delayed(P2PExchange):
    """Point to point, every broadcast a millisecond late."""

    summary = "p2p with a millisecond of latency"

    def broadcast(
        self, codec: Codec, v: Vectors, keys: Keys, round: int, into: np.ndarray | None, add: bool = False
    ) -> None:
        time.sleep(1e-3)
        super().broadcast(codec, v, keys, round, into, add)


if __name__ == "__main__":
    result = mc.run(method="induced", compressor="half", clients=6, rounds=50)
    print(f"loss {result.summary['loss']:.4f}, bytes up {result.summary['bytes']['uplink']['message']}")
