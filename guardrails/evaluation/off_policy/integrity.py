"""Whether a log's propensities are those it was drawn with: tests that need no rewards, for logs as they come in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import erfc, exp, inf, log1p, sqrt

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, Ints, matrix, numbers, probabilities
from guardrails.evaluation.off_policy.betting import DiffersMonitor

SAME = 1e-9
"""A logged propensity and the probability it was taken from differ by less than this, relatively."""
SUMS = 1e-6
"""The probabilities of a row sum to 1 up to this."""
ENOUGH = 5.0
"""Actions expected less often than this share one cell of the chi-square."""
MOST_ACTIONS = 1000
"""Of more actions than this only the most frequent have cells of their own in the chi-square."""


@dataclass(frozen=True)
class Check:
    """One test of a log.

    Attributes:
        name: ``propensity``, ``actions``, ``ranks``, ``harmonic``, ``frequencies``, ``differs`` or ``overridden``.
        ok: whether the log passed; None where there was nothing to test.
        statistic: what was measured.
        p_value: at most so often a right log would look as bad; NaN where no chance is involved.
        sentence: what was found, for people.
    """

    name: str
    ok: bool | None
    statistic: float
    p_value: float
    sentence: str


@dataclass(frozen=True)
class LogIntegrity:
    """What tests say of a log.

    Attributes:
        checks: the tests, in order.
        rows: rows tested; of rows of one unit, which share a draw, the first.
        alpha: a right log fails any of the tests with this probability at most.
    """

    checks: tuple[Check, ...]
    rows: int
    alpha: float

    @property
    def ok(self) -> bool:
        """Whether no test failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[str, ...]:
        """The names of the tests that failed."""
        return tuple(check.name for check in self.checks if check.ok is False)

    def __getitem__(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def __str__(self) -> str:
        verdict = "failed " + ", ".join(self.failed) if self.failed else "passed"
        lines = [f"{'FAIL' if check.ok is False else 'ok  '} {check.sentence}" for check in self.checks]
        return "\n".join([f"{self.rows} rows {verdict}.", *lines])


def check_log(
    action: npt.ArrayLike,
    pmf: npt.ArrayLike | Sequence[npt.ArrayLike],
    propensity: npt.ArrayLike,
    *,
    greedy: npt.ArrayLike | None = None,
    served: npt.ArrayLike | None = None,
    unit: npt.ArrayLike | None = None,
    alpha: float = 0.01,
    tolerated: float = 0.001,
) -> LogIntegrity:
    """Test whether actions were drawn as the log says.

    Estimates by weights are only as right as propensities. These tests find formulas that are wrong (the greedy action
    logged with 1 - eps, where exploration may hit it, too), draws overridden afterwards, Thompson sampling logged as
    1/n, rounding. They are blind to what leaves frequencies as they were.

    - ``propensity``: each one is the probability of its action, and all probabilities of a row sum to 1.
    - ``actions``, ``ranks``: each action, and each rank by probability, was drawn as often as expected (the arithmetic
      mean test; p-values from Freedman's inequality with Bennett's bound, which hold for adaptive policies and any n,
      times the number of actions).
    - ``harmonic``: 1 / propensity averages the number of possible actions (the same inequality).
    - ``frequencies``: chi-square of what was served (the echo, where there is one) against all expectations together.
    - ``differs``: `DiffersMonitor`, where the model's choice is known.
    - ``overridden``: how often the echo says that something else was served than logged.

    Source: Li, Chen, Kleban, Gupta: Counterfactual Estimation and Optimization of Click Metrics in Search Engines
    (WWW 2015), arithmetic and harmonic mean tests; Freedman: On tail probabilities for martingales (1975).

    Args:
        action: which candidate the log says was served, from 0, shape ``(n,)``.
        pmf: the logged probabilities of all candidates, shape ``(n, K)``, or a list of rows of different lengths.
        propensity: the logged probability of the action, shape ``(n,)``.
        greedy: the model's own choice, shape ``(n,)``; -1 where it is unknown.
        served: what the client says was shown, shape ``(n,)``; -1 where it did not say.
        unit: what draws were keyed by, shape ``(n,)``, where it is not the row: rows of one unit share a draw, so only
            the first of each is tested.
        alpha: with which probability a right log may fail; shared by the tests.
        tolerated: the share of overridden rows that is none of a failure.

    Raises:
        ValueError: arrays do not fit together.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> pmf = np.tile([0.8, 0.1, 0.1], (3000, 1))
        >>> action = rng.choice(3, 3000, p=pmf[0])
        >>> check_log(action, pmf, pmf[np.arange(3000), action], greedy=np.zeros(3000, int)).ok
        True
        >>> check_log(np.where(action == 2, 0, action), pmf, np.where(action > 0, 0.1, 0.8)).failed
        ('propensity', 'actions', 'ranks', 'frequencies')
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha is {alpha}; it must be between 0 and 1, as 0.01.")
    rows = len(np.asarray(propensity))
    logged = probabilities(propensity, "propensity", rows, density=False, zero=False)
    each = matrix(pmf, "pmf", rows)
    actions = numbers(action, "action", rows, each.shape[1])
    shown = None if served is None else _choices(served, "served", rows)
    chosen = None if greedy is None else _choices(greedy, "greedy", rows)
    fixed = [_propensity(actions, each, logged), _overridden(actions, shown, tolerated)]
    first = slice(None) if unit is None else np.sort(np.unique(np.asarray(unit), return_index=True)[1])
    actions, each, logged = actions[first], each[first], logged[first]
    shown, chosen = (None if one is None else one[first] for one in (shown, chosen))
    level = alpha / 5
    drawn = [
        _actions(actions, each, level),
        _ranks(actions, each, level),
        _harmonic(logged, each, level),
        _frequencies(actions, each, shown, level),
        _differs(actions, each, chosen, level),
    ]
    return LogIntegrity((fixed[0], *drawn, fixed[1]), len(actions), alpha)


def _choices(values: npt.ArrayLike, name: str, rows: int) -> Ints:
    """Numbers of candidates, -1 where there is none."""
    return numbers(np.asarray(values) + 1, name, rows, None) - 1


def _propensity(action: Ints, pmf: Floats, logged: Floats) -> Check:
    own = pmf[np.arange(len(action)), action]
    wrong = (abs(own - logged) > SAME * logged) | (abs(pmf.sum(axis=1) - 1) > SUMS) | (pmf < 0).any(axis=1)
    count = int(wrong.sum())
    if not count:
        return Check("propensity", True, 0.0, float("nan"), "Every propensity is the probability of its action.")
    row = int(np.flatnonzero(wrong)[0])
    text = (
        f"{count} rows are not what they say, the first is row {row}: its propensity is {logged[row]:.6g}, its "
        f"action's probability {own[row]:.6g}, and all probabilities sum to {pmf[row].sum():.6g}."
    )
    return Check("propensity", False, float(count), float("nan"), text)


def _overridden(action: Ints, served: Ints | None, tolerated: float) -> Check:
    said = np.zeros(0, bool) if served is None else served >= 0
    if served is None or not said.any():
        return Check("overridden", None, float("nan"), float("nan"), "No client said what was really shown.")
    # Of all rows: clients may say so only where something else was shown.
    share = float((served[said] != action[said]).sum() / len(action))
    text = f"{share:.2%} of {len(action)} rows showed something else than was logged ({int(said.sum())} say what)"
    return Check("overridden", share <= tolerated, share, float("nan"), f"{text}; {tolerated:.2%} are tolerated.")


def bennett(deviation: Floats, variance: Floats, above: Floats, below: Floats) -> Floats:
    """At most how often a martingale deviates so far from 0 (either way) at its known predictable variance.

    Args:
        deviation: shape ``(k,)``.
        variance: the sum of the conditional variances.
        above: the largest single step up.
        below: the largest single step down, as a positive number.
    """
    found = np.ones(len(deviation))
    for k, (d, v, up, down) in enumerate(zip(deviation, variance, above, below, strict=True)):
        step = up if d > 0 else down
        if v <= 0 or step <= 0:
            found[k] = 1.0 if abs(d) <= SAME * max(1.0, up, down) * len(deviation) else 0.0
            continue
        u = abs(d) * step / v
        found[k] = min(1.0, 2 * exp(-v / step**2 * ((1 + u) * log1p(u) - u)))
    return found


def _counted(name: str, what: str, drawn: Floats, pmf: Floats, level: float) -> Check:
    """Whether each column was drawn as often as it should have been."""
    expected, variance = pmf.sum(axis=0), (pmf * (1 - pmf)).sum(axis=0)
    # Rounding of probabilities of exactly 0 or 1 adds up to no deviation.
    deviation = np.where(abs(drawn - expected) < 1e-6 * len(pmf), 0.0, drawn - expected)
    ones = np.ones(len(expected))
    each = bennett(deviation, variance, ones, ones)
    tested = max(1, int((expected > 0).sum()))
    worst = int(each.argmin())
    p = min(1.0, float(each[worst]) * tested)
    z = float(deviation[worst]) / sqrt(variance[worst]) if variance[worst] > 0 else (inf if deviation[worst] else 0.0)
    text = f"{what} {worst} was drawn {drawn[worst]:.0f} times, {expected[worst]:.1f} were expected"
    return Check(name, p > level, z, p, f"Of {tested}, the most deviating: {text} (z {z:.1f}, p {p:.2g}).")


def _actions(action: Ints, pmf: Floats, level: float) -> Check:
    drawn = np.bincount(action, minlength=pmf.shape[1]).astype(np.float64)
    return _counted("actions", "action", drawn, pmf, level)


def _ranks(action: Ints, pmf: Floats, level: float) -> Check:
    order = np.argsort(-pmf, axis=1, kind="stable")
    rank = (order == action[:, None]).argmax(axis=1)
    drawn = np.bincount(rank, minlength=pmf.shape[1]).astype(np.float64)
    return _counted("ranks", "rank by probability", drawn, np.take_along_axis(pmf, order, axis=1), level)


def _harmonic(logged: Floats, pmf: Floats, level: float) -> Check:
    possible = pmf > 0
    count = possible.sum(axis=1)
    inverse = np.divide(1.0, pmf, out=np.zeros_like(pmf), where=possible)
    variance = (inverse.sum(axis=1) - count.astype(float) ** 2).clip(min=0)
    deviation = float((1 / logged - count).sum())
    deviation = 0.0 if abs(deviation) < 1e-6 * len(logged) else deviation  # rounding
    above, below = (
        float((inverse.max(axis=1) - count).max()),
        float((count - inverse.min(axis=1, where=possible, initial=inf)).max()),
    )
    p = float(bennett(*(np.array([x]) for x in (deviation, float(variance.sum()), above, below)))[0])
    mean = float((1 / logged).mean())
    text = f"1 / propensity averages {mean:.4g}, the number of possible actions {count.mean():.4g} (p {p:.2g})."
    return Check("harmonic", p > level, mean, p, text)


def _frequencies(action: Ints, pmf: Floats, served: Ints | None, level: float) -> Check:
    """Chi-square with the covariance of independent, differently distributed draws."""
    shown = action if served is None else np.where(served >= 0, served, action)
    K = pmf.shape[1]
    strange = shown >= K
    expected = pmf.sum(axis=0)
    own = np.argsort(-expected)[:MOST_ACTIONS]
    own = own[expected[own] >= ENOUGH]
    own = own[: len(own) - (len(own) == K)]  # the last of all is what the others leave
    if not len(own):
        return Check("frequencies", None, float("nan"), float("nan"), "Too few rows for a chi-square.")
    P = pmf[:, own]
    drawn = np.bincount(shown[~strange], minlength=K)[own] - expected[own]
    covariance = np.diag(expected[own]) - P.T @ P
    values, vectors = np.linalg.eigh(covariance)
    kept = values > 1e-9 * max(1.0, values.max())
    statistic = float((((vectors[:, kept].T @ drawn) ** 2) / values[kept]).sum())
    free = int(kept.sum())
    p = _chi_square(statistic, free) if free else 1.0
    impossible = not free and bool(np.abs(drawn).max() > 1e-6 * len(pmf))
    p = 0.0 if impossible or strange.any() else p
    text = f"All frequencies together: chi-square {statistic:.1f} on {free} degrees of freedom (p {p:.2g})."
    return Check("frequencies", p > level, statistic, p, text)


def _chi_square(statistic: float, free: int) -> float:
    from scipy.special import chdtrc

    return float(chdtrc(free, statistic)) if free > 1 else erfc(sqrt(statistic / 2))


def _differs(action: Ints, pmf: Floats, greedy: Ints | None, level: float) -> Check:
    known = np.zeros(0, bool) if greedy is None else (greedy >= 0) & (greedy < pmf.shape[1])
    if greedy is None or not known.any():
        return Check("differs", None, float("nan"), float("nan"), "The model's own choice is not known.")
    monitor = DiffersMonitor()
    rows = np.flatnonzero(known)
    differs, expected = action[rows] != greedy[rows], (1 - pmf[rows, greedy[rows]]).clip(0, 1)
    expected = np.where(expected < SAME, 0.0, np.where(expected > 1 - SAME, 1.0, expected))
    monitor.update(differs, expected)
    p = monitor.p_value()
    text = (
        f"The model's choice was replaced in {differs.mean():.3%} of the rows, expected were {expected.mean():.3%}: "
        f"10^{monitor.evidence:.1f} to 1 against the log at most (p {p:.2g})."
    )
    return Check("differs", p > level, float(differs.mean()), p, text)
