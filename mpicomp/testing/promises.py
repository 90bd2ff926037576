"""What a compressor's theory promises, against draws: mean, variance, contraction, and who shares randomness with whom."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import TheoryError
from .messages import Messages

DEVIATIONS = 5.0  # by so many standard errors a mean may be away from its promise
UNSEEN = 15.0  # an event with this expected number of occurrences is seen, but for one case in three million


def hard_vectors(messages: Messages) -> Iterator[tuple[str, np.ndarray]]:
    """Vectors that are hard for one compressor or another, each with its name."""
    d, rng = messages.d, messages.rng
    yield "normal", rng.standard_normal(d) + 0.5
    yield "one spike", np.eye(d)[d // 2]
    yield "equal entries", np.ones(d)
    yield "one large entry", np.where(np.arange(d) == 0, 1.0, 0.07)
    heavy = rng.standard_cauchy(d) ** 3
    yield "heavy-tailed", heavy / np.max(np.abs(heavy))


def check_promises(messages: Messages, draws: int, vectors: int) -> None:
    """The declared class and constants against draws of the first so many hard vectors."""
    compressor = messages.compressor
    for _, (name, x) in zip(range(vectors), hard_vectors(messages), strict=False):
        x = x.astype(messages.dtype)
        Y = _draws(messages, x, draws)
        x64 = x.astype(np.float64)
        if compressor.deterministic:
            _check_deterministic(messages, Y, name)
        elif not compressor.shared_randomness:
            _check_independent(messages, Y, name)
        if compressor.same_for_all and not np.all(Y[:, :1] == Y):
            messages.fail(
                "same_for_all is declared, but two clients decode different vectors for one x",
                "Draw from key.shared only",
                x=name,
            )
        own = _one_a_client(Y) if compressor.shared_randomness else Y.reshape(-1, messages.d)
        if compressor.unbiased:
            _check_unbiased(messages, x64, own, name)
            _check_mean_of_clients(messages, x64, Y, name)
        if compressor.contractive:
            _check_contractive(messages, x64, own, name)
        if compressor.contractive and compressor.nonexpansive:
            square = np.sum(own**2, axis=1)
            limit = x64 @ x64 * (1 + _tolerance(messages))
            if not square.mean() <= limit + _slack(square):
                messages.fail(
                    f"nonexpansive is declared, but the mean of ‖C(x)‖² over {len(own)} draws is {square.mean():.6g} with ‖x‖² = "
                    f"{x64 @ x64:.6g}",
                    "Set nonexpansive = False",
                    x=name,
                )


def _tolerance(messages: Messages) -> float:
    return 1e-6 if messages.dtype == np.float64 else 1e-5


def _slack(samples: np.ndarray) -> float:
    return float(DEVIATIONS * samples.std() / np.sqrt(len(samples)))


def _draws(messages: Messages, x: np.ndarray, draws: int) -> np.ndarray:
    """C(x) of every client in some rounds, float64, shape (rounds, n, d)."""
    V = np.ascontiguousarray(np.repeat(x[None], messages.n, axis=0))
    rounds = 4 if messages.compressor.deterministic else max(8, -(-draws // messages.n))
    return np.array([messages.sent(V, round) for round in range(rounds)], np.float64)


def _one_a_client(Y: np.ndarray) -> np.ndarray:
    """One draw of each round, of one client after the other: those of a round are not independent."""
    rounds = np.arange(len(Y))
    return Y[rounds, rounds % Y.shape[1]]


def _check_deterministic(messages: Messages, Y: np.ndarray, name: str) -> None:
    if not np.all(Y[:1, :1] == Y):
        messages.fail(
            "deterministic is declared, but C(x) depends on the key or the client",
            "Set deterministic = False, or draw no random numbers",
            x=name,
        )


def _check_independent(messages: Messages, Y: np.ndarray, name: str) -> None:
    """The errors of two clients are uncorrelated, where the randomness is each client's own."""
    if messages.n < 2 or any(np.sum(np.any(Y[:, i] != Y[0, i], axis=1)) < UNSEEN for i in (0, 1)):
        return  # the same vector nearly always: that says nothing of the clients
    remedy = "Draw from the key's private numbers (shared=False), or set shared_randomness = True"
    if np.all(Y[:, 0] == Y[:, 1]):
        messages.fail("two clients' messages have the same random numbers in every round", remedy, x=name)
    errors = Y - Y.mean(axis=(0, 1))
    products = np.sum(errors[:, 0] * errors[:, 1], axis=1)
    if abs(products.mean()) > _slack(products) + _tolerance(messages) ** 2 * np.mean(np.sum(Y**2, axis=2)):
        messages.fail(
            f"two clients' errors are correlated: their inner product has the mean {products.mean():.4g} over {len(products)} rounds, "
            f"{DEVIATIONS:.0f} standard errors are {_slack(products):.4g}",
            remedy,
            x=name,
        )


def _check_unbiased(messages: Messages, x: np.ndarray, Y: np.ndarray, name: str) -> None:
    """E C(x) = x along x and, but for heavy tails, in every coordinate; E‖C(x) − x‖² ≤ ω‖x‖²."""
    remedy = "Scale what is decoded, or set unbiased = False"
    norm, count = float(np.linalg.norm(x)), len(Y)
    along, unseen = Y @ (x / norm), UNSEEN / count  # a value that is taken so seldom need not come among the draws
    room = _slack(along) + unseen * np.max(np.abs(along)) + _tolerance(messages) * norm
    if not abs(along.mean() - norm) <= room:
        messages.fail(
            f"unbiased is declared, but the mean of {count} draws of C(x) is {along.mean() / norm:.4g} x along x, expected 1 up to "
            f"{room / norm:.2g}",
            remedy,
            x=name,
        )
    if name != "heavy-tailed":
        away = np.abs(Y.mean(axis=0) - x)
        allowed = (
            DEVIATIONS * Y.std(axis=0) / np.sqrt(count) + unseen * np.max(np.abs(Y)) + _tolerance(messages) * np.abs(x)
        )
        worst = int(np.argmax(away - allowed))
        if not away[worst] <= allowed[worst]:
            messages.fail(
                f"unbiased is declared, but in coordinate {worst} the mean of {count} draws of C(x) is {Y[:, worst].mean():.6g} for "
                f"x = {x[worst]:.6g}, expected up to {allowed[worst]:.2g}",
                remedy,
                x=name,
            )
    try:
        omega = messages.compressor.omega(messages.d, messages.n)
    except TheoryError:
        return  # unbiased, with a variance that no ω bounds
    errors = np.sum((Y - x) ** 2, axis=1)
    if not omega >= 0:
        messages.fail(f"omega is {omega}", "omega(d, n) is a number that is not negative")
    if not errors.mean() <= omega * norm**2 + _slack(errors) + _tolerance(messages) * norm**2:
        messages.fail(
            f"omega is {omega:.6g}, but the mean of ‖C(x) − x‖²/‖x‖² over {count} draws is {errors.mean() / norm**2:.6g}",
            "Let omega(d, n) return a bound that holds for all vectors",
            x=name,
        )


def _check_mean_of_clients(messages: Messages, x: np.ndarray, Y: np.ndarray, name: str) -> None:
    """θ: E‖mean C_i(x) − x‖² ≤ θ‖x‖², all clients compressing the same x."""
    try:
        theta = messages.compressor.theta(messages.d, messages.n)
    except TheoryError:
        return
    errors = np.sum((Y.mean(axis=1) - x) ** 2, axis=1)
    if not errors.mean() <= (theta + _tolerance(messages)) * (x @ x) + _slack(errors):
        messages.fail(
            f"ab or theta promises E‖mean C_i(x) − x‖² ≤ {theta:.6g} ‖x‖² for n = {messages.n} clients, the mean over {len(Y)} rounds is "
            f"{errors.mean() / (x @ x):.6g} ‖x‖²",
            "ω/n holds only where the clients draw independently; define ab(d, n) where they do not",
            x=name,
        )


def _check_contractive(messages: Messages, x: np.ndarray, Y: np.ndarray, name: str) -> None:
    alpha, errors = messages.compressor.alpha(messages.d, messages.n), np.sum((Y - x) ** 2, axis=1)
    if not 0 < alpha <= 1:
        messages.fail(f"alpha is {alpha}", "alpha(d, n) is in (0, 1]")
    if not errors.mean() <= (1 - alpha + _tolerance(messages)) * (x @ x) + _slack(errors):
        messages.fail(
            f"contractive is declared with alpha = {alpha:.6g}, but the mean of ‖C(x) − x‖²/‖x‖² over {len(Y)} draws is "
            f"{errors.mean() / (x @ x):.6g}, more than 1 − alpha = {1 - alpha:.6g}",
            "Let alpha(d, n) hold for the worst vector, or set contractive = False",
            x=name,
        )


def check_ab(messages: Messages, rounds: int) -> None:
    """E‖mean C_i(a_i) − ā‖² ≤ A mean‖a_i‖² − B‖ā‖² for vectors that differ."""
    if not messages.compressor.unbiased:
        return
    try:
        A, B = messages.compressor.ab(messages.d, messages.n)
    except TheoryError:
        return
    a = messages.vectors() * np.arange(1, messages.n + 1)[:, None].astype(messages.dtype)
    exact = a.astype(np.float64)
    mean, squares = exact.mean(axis=0), np.sum(exact**2) / messages.n
    estimates = np.array([np.mean(messages.sent(a, round), axis=0, dtype=np.float64) for round in range(rounds)])
    errors, promised = np.sum((estimates - mean) ** 2, axis=1), A * squares - B * (mean @ mean)
    if not errors.mean() <= promised + _slack(errors) + _tolerance(messages) * squares:
        messages.fail(
            f"ab(d, n) = ({A:.6g}, {B:.6g}) promises E‖mean C_i(a_i) − mean a_i‖² ≤ {promised:.6g}, the mean over {rounds} rounds is "
            f"{errors.mean():.6g}",
            "ω/n holds only where the clients draw independently; define ab(d, n) where they do not",
        )


def check_constants(messages: Messages) -> None:
    """What the compressor says of itself can be asked."""
    compressor, d, n = messages.compressor, messages.d, messages.n
    density = compressor.density(d, n)
    if not 0 < density <= d:
        messages.fail(f"density is {density}", "density(d, n) is above 0 and at most d")
    if compressor.contractive:
        try:
            compressor.alpha(d, n)
        except TheoryError as error:
            messages.fail(f"contractive is declared, but alpha(d, n) raises TheoryError: {error}", "Define alpha(d, n)")
    try:
        str(compressor.spec)
    except AttributeError as error:
        messages.fail(
            f"spec cannot be written: {error}", "Store every option of the constructor as an attribute of the same name"
        )


def check_homogeneous(messages: Messages) -> None:
    """C(tx) = tC(x) with the same random draw."""
    if not messages.compressor.homogeneous or messages.codec.round_maximum is not None:
        return
    V = messages.vectors()
    relative = 1e-11 if messages.dtype == np.float64 else 1e-5
    for t in (8, 3) if messages.dtype == np.float64 else (8,):
        scaled, plain = messages.sent(messages.dtype.type(t) * V), t * messages.sent(V)
        if not np.allclose(scaled, plain, rtol=relative, atol=relative * float(np.max(np.abs(V)))):
            messages.fail(
                f"homogeneous is declared, but C({t} x) is not {t} C(x) with the same key",
                "Set homogeneous = False",
            )
