"""Several detectors vote: each sees another kind of strangeness, and one score says how strange their votes are."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.errors import ProfileError
from guardrails.outliers.calibration import STRANGEST
from guardrails.outliers.conformal import TIE
from guardrails.outliers.kinds import fitter
from guardrails.outliers.live import name_of
from guardrails.typing import Detector, Rows, Scores


def _mean(surprises: Sequence[float]) -> float:
    least = min(surprises)
    return least - math.log(sum(math.exp(least - surprise) for surprise in surprises) / len(surprises))


def _harmonic(surprises: Sequence[float]) -> float:
    most = max(surprises)
    return most + math.log(sum(math.exp(surprise - most) for surprise in surprises) / len(surprises))


_RULES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "bonferroni": max,
    "fisher": sum,
    "mean": _mean,
    "harmonic": _harmonic,
}
"""From the members' ``-log p`` of a row to one number: of the least p, of their product, of their means."""


def combine(*members: Any, merge: str = "bonferroni", held: float = 0.3) -> Combination:
    """Several detectors as one: give it as ``detector=`` to `guardrails.outliers.fit` or `guardrails.Profile.fit`.

    Args:
        members: names of detectors, functions that fit one (rows ``(m, d)`` to a detector), or fitted detectors, of
            anybody `guardrails.contrib.adopt` knows; these are not refitted, and must not have seen the rows.
        merge: ``"bonferroni"``: the strangest vote counts, for what one member alone sees clearly; ``"fisher"``: votes
            add up, for what all members see faintly; ``"harmonic"`` and ``"mean"`` lie between, near the former and
            near "all have to agree".
        held: the share of rows kept from the members' fit to bring their scores to one scale.

    Raises:
        ProfileError: fewer than two members, an unknown name or rule.
        TypeError: a member is no detector.

    Example:
        >>> import numpy as np
        >>> from guardrails import outliers
        >>> from guardrails.outliers.voting import combine
        >>> X = np.random.default_rng(0).normal(size=(1000, 3))
        >>> far_out = outliers.IsolationForest.fit(X[:300])
        >>> detector = outliers.fit(X[300:], detector=combine("isolation_forest", far_out), alpha=0.05)
        >>> detector.is_outlier(np.array([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]]))
        array([False,  True])
    """
    if len(members) < 2:  # noqa: PLR2004
        raise ProfileError(f"combine() of {len(members)} detectors: a vote takes two or more.")
    if merge not in _RULES:
        raise ProfileError(f"merge={merge!r} is unknown; there is {', '.join(map(repr, _RULES))}.")
    if not 0.0 < held < 1.0:
        raise ProfileError(f"held={held!r} is no share of the rows: give a number between 0 and 1.")
    return Combination(tuple(_member(member) for member in members), merge, held)


def _member(given: Any) -> Detector | Callable[[Rows, int], Detector]:
    """A fitted detector, or how to fit one as ``fit(rows, seed)``."""
    from guardrails.contrib import adopt

    if isinstance(given, str):
        return fitter(given)
    if callable(given) and not hasattr(given, "score"):
        return lambda rows, _: adopt(given(rows))
    return adopt(given)


@dataclass(frozen=True)
class Combination:
    """Detectors to be combined, some of them still to be fitted: made by `combine`."""

    members: tuple[Detector | Callable[[Rows, int], Detector], ...]
    merge: str
    held: float

    def fit_members(self, X: Rows, seed: int = 0) -> Vote:
        """Fit the members that are not fitted, on part of the rows, and scale all of them on the rest.

        Args:
            X: ordinary rows ``(n, d)`` without missing values.
            seed: decides the split; member i is fitted with ``seed + i``.

        Returns:
            A `Combined` where every member is compiled, and can be saved; otherwise a `Vote`.

        Raises:
            ProfileError: too few rows, or a member's scores are no finite numbers, one per row.
        """
        own, kept = X, X
        if not all(hasattr(member, "score") for member in self.members):
            order = np.random.default_rng(seed).permutation(len(X))
            cut = round(self.held * len(X))
            own, kept = X[order[cut:]], X[order[:cut]]
        if min(len(own), len(kept)) < _FEWEST:
            raise ProfileError(f"{len(X)} rows are too few to fit some detectors and scale them on {self.held:.0%}.")
        fitted = tuple(
            member if hasattr(member, "score") else member(own, seed + i) for i, member in enumerate(self.members)
        )
        scales = tuple(np.sort(_checked(member, kept)) for member in fitted)
        compiled = all(hasattr(member, "arrays") and hasattr(member, "kind") for member in fitted)
        return (Combined if compiled else Vote)(fitted, scales, self.merge)


_FEWEST = 10
"""Rows below which there is no scale to speak of."""


@dataclass(frozen=True, eq=False)
class Vote:
    """Fitted detectors that vote on each row.

    A member's score s becomes its surprise ``u = -log p``, with p the share of held-out scores that are as large,
    drawn through between them so that u rises with s and ties no more than s does. Beyond the largest held-out score u
    goes on rising, slowly: ``log(1 + excess / spread)``, as if the tail fell off like 1 / excess. A rule then merges
    the surprises of a row.

    The members share the row, so their votes depend on each other in unknown ways, and the merged number is no p-value.
    It does not have to be: it is a fixed function of the row, so the calibration around it (`calibrate`, on rows that
    neither the members nor these scales have seen) makes alpha exact again, whatever the rule and the dependence.

    Attributes:
        members: the detectors.
        scales: of each member, the scores of held-out rows, ascending.
        merge: the rule.
    """

    members: tuple[Any, ...]
    scales: tuple[Scores, ...]
    merge: str

    @property
    def name(self) -> str:
        """Who votes."""
        return f"combined({', '.join(map(name_of, self.members))})"

    def score(self, rows: Rows) -> Scores:
        """Score rows ``(n, d)``: shape ``(n,)``, higher is stranger, each row by itself."""
        votes = [_scores(member, rows).tolist() for member in self.members]
        return np.array([self._merged(vote) for vote in zip(*votes, strict=True)], dtype=np.float64)

    def score_one(self, row: npt.NDArray[np.float64]) -> float:
        """Score one row of shape ``(d,)``."""
        return self._merged([vote(row) for vote in self._voters])

    def _merged(self, votes: Sequence[float]) -> float:
        merged = _RULES[self.merge]([surprise(vote) for surprise, vote in zip(self._surprises, votes, strict=True)])
        return merged if math.isfinite(merged) else STRANGEST

    @cached_property
    def _surprises(self) -> list[Callable[[float], float]]:
        return [_surprise(scale) for scale in self.scales]

    @cached_property
    def _voters(self) -> list[Callable[[npt.NDArray[np.float64]], float]]:
        def alone(member: Any) -> Callable[[npt.NDArray[np.float64]], float]:
            return lambda row: float(_scores(member, row[None, :])[0])

        return [getattr(member, "score_one", None) or alone(member) for member in self.members]


@dataclass(frozen=True, eq=False)
class Combined(Vote):
    """A `Vote` of compiled detectors: compiled itself."""

    kind = "combined"

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """What `from_arrays` needs, as arrays without objects."""
        arrays = {"merge": np.array([self.merge]), "kinds": np.array([member.kind for member in self.members])}
        for i, (member, scale) in enumerate(zip(self.members, self.scales, strict=True)):
            arrays |= {f"{i}.scale": scale} | {f"{i}.own.{name}": array for name, array in member.arrays().items()}
        return arrays

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, npt.NDArray[Any]],
        read: Callable[[str, Mapping[str, npt.NDArray[Any]]], Detector],
    ) -> Combined:
        """The inverse of `arrays`; ``read`` makes a member of its kind and arrays."""
        members, scales = [], []
        for i, kind in enumerate(arrays["kinds"].tolist()):
            own = f"{i}.own."
            members.append(read(kind, {name[len(own) :]: arrays[name] for name in arrays if name.startswith(own)}))
            scales.append(arrays[f"{i}.scale"])
        return cls(tuple(members), tuple(scales), str(arrays["merge"][0]))


def _scores(member: Any, rows: Rows) -> Scores:
    """Each row by itself, also where a member's score() of a batch depends on the batch."""
    scores = np.asarray(getattr(member, "score_each", member.score)(rows), dtype=np.float64)
    if scores.shape != (len(rows),):
        raise ProfileError(f"{name_of(member)} scored {len(rows)} rows with shape {scores.shape}, not one score a row.")
    return scores


def _checked(member: Any, rows: Rows) -> Scores:
    scores = _scores(member, rows)
    if not np.isfinite(scores).all():
        raise ProfileError(f"{name_of(member)} gave ordinary rows scores that are no finite numbers.")
    return scores


def _surprise(scale: Scores) -> Callable[[float], float]:
    """From a score to ``-log p``, by ascending held-out scores. Plain numbers: requests come one by one."""
    n = len(scale)
    first = np.r_[True, np.diff(scale) > TIE * np.abs(scale[1:])]  # of scores that differ in their last bits only
    knots: list[float] = scale[first].tolist()
    heights: list[float] = np.log((n + 1) / (n + 1 - np.flatnonzero(first))).tolist()
    largest = knots[-1]
    spread = largest - float(np.median(scale)) or largest - knots[0] or 1.0

    def surprise(score: float) -> float:
        if not math.isfinite(score):
            return math.inf  # what a detector cannot put a number on is as strange as can be
        above = bisect_right(knots, score)
        if above == 0:
            return 0.0
        if above == len(knots):
            return heights[-1] + math.log1p((score - largest) / spread)
        low = knots[above - 1]
        along = (score - low) / (knots[above] - low)
        return heights[above - 1] + along * (heights[above] - heights[above - 1])

    return surprise
