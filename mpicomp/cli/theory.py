"""`mpicomp theory`: constants, step size and what they promise, before an allocation is spent."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ..console.options import with_run_options


@with_run_options
def theory(
    config: Any, epsilon: Annotated[float, typer.Option(help="Accuracy: rounds and bytes to E‖∇f‖² ≤ this.")] = 1e-4
) -> None:
    """Constants, the theoretical step size, and the promised rounds and bytes to ‖∇f‖² ≤ ε, beside gradient descent's."""
    import dataclasses

    from ..console.show import experimental_notes, size, table
    from ..errors import TheoryError
    from ..runtime.session import build_problem
    from ..runtime.theory import constants, promise

    problem = build_problem(config)
    smooth, compressor = constants(config, problem)
    table(f"Problem {problem.name}, d = {problem.dim}, n = {problem.n_clients}", ["constant", "value"], _rows(smooth))
    table(f"Compressor {config.compressor or 'of the method'}", ["constant", "value"], _rows(compressor))
    gd = dataclasses.replace(
        config, method="gd", method_options={}, compressor=None, downlink_compressor=None, step="theory"
    )
    promises = [promise(gd, epsilon, problem)]
    try:
        promises.append(promise(config, epsilon, problem))
    except TheoryError as error:
        print(f"{config.method}: {error}")
        print(f"A safe start is --step {promises[0].step / 10:.3g}, a tenth of gradient descent's 1/L; then double it.")

    def total(p: Any, per_round: float) -> str:
        return "?" if p.rounds is None else size(p.rounds * per_round)

    rows = [
        ["compressor", *(p.compressor for p in promises)],
        ["step γ", *(f"{p.step:.6g}" for p in promises)],
        [
            f"rounds to ‖∇f‖² ≤ {epsilon:g}",
            *("none (inf f unknown, or a floor)" if p.rounds is None else f"{p.rounds:,}" for p in promises),
        ],
        ["bytes up a round, measured", *(size(p.up) for p in promises)],
        ["bytes down a round, measured", *(size(p.down) for p in promises)],
        ["bytes up in all", *(total(p, p.up) for p in promises)],
        ["bytes up and down in all", *(total(p, p.up + p.down) for p in promises)],
    ]
    table("Promise (an upper bound; one worker's frames)", ["", *(p.method for p in promises)], rows)
    for note in experimental_notes(config):
        print(note)


def _rows(values: dict[str, Any]) -> list[list[str]]:
    def text(value: Any) -> str:
        if isinstance(value, tuple):
            return f"({value[0]:.7g}, {value[1]:.7g})"
        return f"{value:.7g}" if isinstance(value, float) else str(value)

    return [[name, text(value)] for name, value in values.items()]
