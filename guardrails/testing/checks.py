"""Checks for plug-ins of your own: run them in your tests."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from guardrails.core.containment import set_strict
from guardrails.typing import Detector, Policy, Rows


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


def check_policy(policy: Policy, actions: int = 5) -> None:
    """Check that an exploration policy keeps the `Policy` protocol.

    Raises:
        AssertionError: it does not; the message says in what.
    """
    rng = np.random.default_rng(0)
    for scores in (rng.normal(size=actions), np.zeros(actions), 1e6 * rng.normal(size=(7, actions))):
        pmf = np.asarray(policy.pmf(scores))
        assert pmf.shape == scores.shape, f"pmf() of scores {scores.shape} has shape {pmf.shape}"
        assert (pmf >= 0).all(), "a probability is negative"
        np.testing.assert_allclose(pmf.sum(axis=-1), 1.0, atol=1e-9, err_msg="probabilities do not sum to one")
        assert np.array_equal(pmf, policy.pmf(scores)), "pmf() of the same scores differs: a policy has no randomness"
    order = rng.permutation(actions)
    scores = rng.normal(size=actions)
    np.testing.assert_allclose(policy.pmf(scores[order]), policy.pmf(scores)[order], err_msg="the order matters")
