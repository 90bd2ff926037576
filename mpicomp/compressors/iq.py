"""Independent quantization: the quantizers of `cq` with thresholds that clients draw independently. The control."""

from __future__ import annotations

from .base import Compressor, Constants, compressors
from .cq import CQ


@compressors.register("iq")
class IQ(CQ):
    """As CQ, with its options, but U_i uniform on [0, 1) and independent for each client.

    Offsets and rotations are the client's own, too.

    Constants: ω as for CQ; own radius (A, B) = (ω/n, 0); common radius (δ²ρ², 0), since R² ≤ Σ‖a_i‖²; θ = ω/n.

    >>> IQ().omega(100), IQ().ab(100, 10), IQ().theta(100, 10)
    (99.0, (9.9, 0.0), 9.9)
    """

    codec_id = 17
    summary = "independent quantization: 1 bit or few levels, the control for cq"
    formulas = "1 bit: ω = d − 1, (A, B) = (ω/n, 0), θ = ω/n"
    paper = "Suresh, Yu, Kumar and McMahan 2017, Distributed mean estimation with limited communication"
    shared_randomness = False

    def ab(self, d: int, n: int) -> tuple[float, float]:
        if self.radius == "common" and n > 1 and not self.clip:
            return self.lattice.spacing**2 * self._size(d, n), 0.0
        return Compressor.ab(self, d, n)

    def theta(self, d: int, n: int) -> float:
        return self.lattice.omega(self._size(d, n), d, self.use_max) / n if not self.clip else super().theta(d, n)

    def gradient_variance(self, d: int, n: int, constants: Constants) -> float:
        """With a common radius R ≤ L_max‖x − y‖: δ²ρ²L_max²/n."""
        if self.radius == "own" or n == 1 or self.clip:
            return Compressor.gradient_variance(self, d, n, constants)
        return self.lattice.spacing**2 * self._size(d, n, vectors=n) * constants.L_max**2 / n

    def _correlated(self) -> bool:
        return False
