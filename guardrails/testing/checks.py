"""Checks for plug-ins of your own: run them in your tests."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.core.containment import set_strict
from guardrails.typing import Detector, Rows, Scores

_NUMBERS = 1001
_OFF, _FEW = 0.03, 0.01


@contextlib.contextmanager
def strict() -> Iterator[None]:
    """Let the exceptions of guards out, which a service would contain and count.

    Example:
        >>> import guardrails as gr
        >>> from guardrails.testing import strict
        >>> def broken(answer):
        ...     raise LookupError("no scores here")
        >>> @gr.explore(gr.EpsilonGreedy(0.1), scores=broken)
        ... def rank(rows: list) -> list:
        ...     return rows
        >>> with strict():
        ...     rank([0.1, 0.9])
        Traceback (most recent call last):
        ...
        LookupError: no scores here
    """
    before = set_strict(True)
    try:
        yield
    finally:
        set_strict(before)


def check_detector(detector: Detector, rows: Rows) -> None:
    """Check that an outlier detector keeps the `Detector` protocol on ordinary rows ``(n, d)``, n at least 10.

    Raises:
        AssertionError: it does not; the message says in what.
    """
    before = rows.copy()
    scores = np.asarray(detector.score(rows))
    assert scores.shape == (len(rows),), f"score() of {len(rows)} rows has shape {scores.shape}, not ({len(rows)},)"
    assert np.isfinite(scores).all(), "score() of ordinary rows is not finite"
    assert np.array_equal(rows, before), "score() changes the rows it is given"
    np.testing.assert_allclose(
        detector.score(rows[:1]), scores[:1], rtol=1e-9, err_msg="one row alone scores otherwise"
    )
    np.testing.assert_allclose(detector.score(rows[::-1]), scores[::-1], rtol=1e-9, err_msg="the order of rows matters")
    centre, spread = rows.mean(axis=0), rows.std(axis=0) + 1e-9
    strange = np.asarray(detector.score((centre + 50 * spread)[None, :]))
    assert strange[0] > np.median(scores), "a row 50 standard deviations out is not stranger: higher has to be stranger"


def check_policy(
    policy: Any, actions: int = 5, *, scores: npt.ArrayLike | None = None, by_number: bool = False
) -> None:
    """Check that an exploration policy keeps its protocol: that of its ``kind``, or of a choice where it names none.

    Args:
        policy: over choices (`Policy`), thresholds, rankings or values.
        actions: how many actions, or candidates, to choose from.
        scores: rows of scores as the policy is meant for, where not any numbers will do (counts, say), shape
            ``(n, actions)``; for a threshold ``(n,)``, for values predictions ``(n,)``. Huge ones may then be refused.
        by_number: the policy treats actions by their number (an explore set), so their order may matter.

    Raises:
        AssertionError: it does not; the message says in what.

    Example:
        >>> import numpy as np
        >>> from guardrails.exploration.policies import EpsilonGreedy, Votes
        >>> from guardrails.testing import check_policy
        >>> check_policy(EpsilonGreedy(0.1))
        >>> check_policy(Votes(), 3, scores=np.array([[3, 1, 0], [0, 2, 2]]))
    """
    kind = getattr(policy, "kind", "choice")
    given = None if scores is None else np.asarray(scores, dtype=np.float64)
    if kind == "choice":
        _check_choice(policy, actions, given, by_number)
    elif kind == "threshold":
        _check_threshold(policy, given)
    elif kind == "value":
        _check_value(policy, given)
    elif kind == "ranking":
        from guardrails.testing.rankings import check_ranking

        check_ranking(policy, max(actions, 8, policy.slots + 1))
    else:
        raise AssertionError(f"kind={kind!r}: a policy is of kind choice, threshold, ranking or value")


def _check_choice(policy: Any, actions: int, given: Scores | None, by_number: bool) -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(7, actions)) if given is None else given
    ties = np.where(np.arange(actions) % 3 == 0, rows[0].max(), rows[0])
    ordinary = [rows[0], rows, rows[:1], rows[:0], np.repeat(rows[0, :1], actions), ties]
    for scores in ordinary if given is not None else [*ordinary, 1e6 * rows]:
        _check_pmf(policy.pmf, scores, scores.shape)
    for at, row in enumerate(policy.pmf(rows)):
        np.testing.assert_allclose(policy.pmf(rows[at]), row, rtol=1e-12, err_msg="a row alone has other probabilities")
    if not by_number:
        order = rng.permutation(actions)
        distinct = [row for row in rows if len(set(row)) == actions]
        for row in distinct:
            np.testing.assert_allclose(policy.pmf(row[order]), policy.pmf(row)[order], err_msg="the order matters")
    _check_odd_scores(policy, rows[0], may_refuse=given is not None)
    _check_greedy(policy, rows)
    if "seen" in inspect.signature(policy.pmf).parameters:
        for seen in (0, 10**9):
            _check_pmf(partial(policy.pmf, seen=seen), rows, rows.shape)


def _check_pmf(pmf: Callable[[Scores], Any], scores: Scores, shape: tuple[int, ...]) -> None:
    """Probabilities, the same when asked again, and the scores left as they were."""
    before = scores.copy()
    first = np.array(pmf(scores))
    assert first.shape == shape, f"pmf() of scores {scores.shape} has shape {first.shape}, not {shape}"
    assert (first >= 0).all(), f"a probability is negative or NaN, of scores {scores}"
    np.testing.assert_allclose(first.sum(axis=-1), 1.0, atol=1e-9, err_msg="probabilities do not sum to one")
    assert np.array_equal(scores, before), "pmf() changes the scores it is given"
    for _ in range(3):
        assert np.array_equal(first, pmf(scores)), "pmf() of the same scores differs: a policy has no randomness"


def _check_odd_scores(policy: Any, row: Scores, *, may_refuse: bool) -> None:
    """Infinite and huge scores have probabilities; NaN has none, and neither has a choice of nothing."""
    inf = float("inf")
    patterns = [[-inf, 0.0], [inf, 0.0], [inf, inf, 0.0], [-inf], [inf], [inf, -inf], [1e308, -1e308], [1e308]]
    for pattern in patterns:
        odd = row.copy()
        odd[: len(pattern)] = pattern[: len(odd)]
        for scores in (odd, np.resize(pattern, len(row))):
            try:
                with np.errstate(all="ignore"):
                    _check_pmf(policy.pmf, scores, scores.shape)
            except ValueError as error:
                if not may_refuse:
                    raise AssertionError(f"pmf() refuses {scores}: {error}") from error
    for at in range(len(row)):
        unknown = row.copy()
        unknown[at] = np.nan
        for scores in (unknown, np.stack([row, unknown])):
            _check_refused(policy.pmf, scores, "a NaN")
    _check_refused(policy.pmf, row[:0], "no action")


def _check_refused(pmf: Callable[[Scores], Any], scores: Scores, what: str) -> None:
    try:
        with np.errstate(all="ignore"):
            pmf(scores)
    except ValueError:
        return
    raise AssertionError(f"pmf() does not refuse {what} with a ValueError")


def _check_greedy(policy: Any, rows: Scores) -> None:
    """The model's own choice, where the policy takes one, and the fast path for one row, where it has one."""
    best = rows.argmax(axis=1)
    takes = "greedy" in inspect.signature(policy.pmf).parameters
    for greedy in {0: best, 1: (best + 1) % rows.shape[1]}.values() if takes else [best]:
        pmf = np.asarray(policy.pmf(rows, greedy=greedy) if takes else policy.pmf(rows))
        at = np.arange(len(rows)), greedy
        assert (pmf[at] >= np.asarray(policy.pmf(rows))[at] - 1e-12).all(), (
            "the greedy action is drawn less for being it"
        )
        if greedy is best:
            assert np.array_equal(pmf, policy.pmf(rows)), "greedy= the first of the best scores changes something"
        for row, chosen, expected in zip(rows, greedy.tolist(), pmf, strict=True):
            if takes:
                one = policy.pmf(row, greedy=chosen)
                np.testing.assert_allclose(one, expected, rtol=1e-12, err_msg="a row alone has other probabilities")
            if hasattr(policy, "pmf_of"):
                fast = policy.pmf_of(row.tolist(), chosen)
                assert isinstance(fast, list), "pmf_of() has to return a list"
                np.testing.assert_allclose(fast, expected, atol=1e-14, rtol=0, err_msg="pmf_of() is not pmf()")


def _check_threshold(policy: Any, given: Scores | None) -> None:
    """Nobody who is accepted by the model is refused, and a better score is never worth less."""
    around = float(getattr(policy, "threshold", 0.0))
    sizes = np.concatenate([[0.0], np.logspace(-9, 9, 73), [1e308]])
    near = np.concatenate([np.nextafter(around, [-np.inf, np.inf]), [around, -np.inf, np.inf]])
    with np.errstate(over="ignore"):
        scores = np.sort(np.concatenate([around - sizes, around + sizes, near]) if given is None else given)
    _check_pmf(policy.pmf, scores, (len(scores), 2))
    accept, greedy = np.asarray(policy.pmf(scores))[:, 1], np.asarray(policy.greedy(scores))
    assert greedy.shape == scores.shape, f"greedy() of scores {scores.shape} has shape {greedy.shape}"
    assert np.isin(greedy, (0, 1)).all(), "greedy() is 1 (accept) or 0 (refuse)"
    assert (np.diff(greedy) >= 0).all(), "the model accepts one score and refuses a better one"
    assert (accept[greedy == 1] == 1.0).all(), "somebody who reaches the threshold may be refused"
    assert (np.diff(accept) >= 0).all(), "a better score is accepted with a smaller probability"
    for score, probability in zip(scores[::7], accept[::7], strict=True):
        _check_pmf(policy.pmf, np.asarray(score), (2,))
        assert policy.pmf(score)[1] == probability, "a score alone has another probability than in a batch"
    _check_refused(policy.pmf, np.append(scores, np.nan), "a NaN")


def _check_value(policy: Any, given: Scores | None) -> None:
    """What is sampled lies in the range and has the density that `pdf` says."""
    low, high = float(policy.low), float(policy.high)
    predictions = low + (high - low) * np.array([0.0, 0.03, 0.5, 0.97, 1.0, -0.2, 1.3]) if given is None else given
    uniform = (np.arange(_NUMBERS) + 0.5) / _NUMBERS
    for prediction in predictions.tolist():
        values = np.array([policy.sample(prediction, u) for u in uniform.tolist()])
        assert ((values >= low) & (values <= high)).all(), "sample() leaves [low, high]"
        assert (np.diff(values) >= 0).all(), "sample() does not grow with the uniform number"
        assert policy.sample(prediction, 0.25) == policy.sample(prediction, 0.25), "sample() draws itself"
        assert (np.asarray(policy.pdf(prediction, np.array([low - 1.0, high + 1.0]))) == 0).all(), "mass out of range"
        density = np.asarray(policy.pdf(np.full(len(values[::500]), prediction), values[::500]))
        alone = [float(policy.pdf(prediction, value)) for value in values[::500]]
        np.testing.assert_allclose(density, alone, rtol=1e-12, err_msg="a value alone has another density")
        if getattr(policy, "step", None) is None:
            _check_density(policy, prediction, values)
        else:
            _check_steps(policy, prediction, values)
    for function in (lambda scores: policy.pdf(scores, low), lambda scores: policy.sample(scores, 0.5)):
        _check_refused(function, np.asarray(np.nan), "a NaN")


def _check_density(policy: Any, prediction: float, values: Scores) -> None:
    assert (np.diff(values) > 0).all(), f"sample({prediction}, u) is one value for several u: mass on a point"
    between = policy.pdf(prediction, (values[1:] + values[:-1]) / 2) * np.diff(values) * len(values)
    # A density that jumps is missed in the few intervals with a jump, and a steep one at the ends of the range.
    assert np.mean(np.abs(between - 1.0) > _OFF) < _FEW, "pdf() is not the density of what sample() returns"
    points = np.sort(np.concatenate([values, np.linspace(policy.low, policy.high, _NUMBERS)]))
    mass = (policy.pdf(prediction, (points[1:] + points[:-1]) / 2) * np.diff(points)).sum()
    assert abs(mass - 1.0) < _FEW, f"pdf({prediction}, .) integrates to {mass:.4f}, not to one"


def _check_steps(policy: Any, prediction: float, values: Scores) -> None:
    grid = np.asarray(policy.grid)
    mass = np.asarray(policy.pdf(prediction, grid))
    assert (mass >= 0).all(), "a probability is negative"
    np.testing.assert_allclose(mass.sum(), 1.0, atol=1e-9, err_msg="the steps' probabilities do not sum to one")
    assert np.isin(values, grid).all(), "sample() returns what is no step"
    shares = (values[:, None] == grid).mean(axis=0)
    np.testing.assert_allclose(shares, mass, atol=1.0 / len(values), err_msg="sample() does not do what pdf() says")
