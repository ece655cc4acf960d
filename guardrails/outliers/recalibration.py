"""Calibrate anew from recent traffic, without letting the threshold creep."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from guardrails.errors import ProfileError
from guardrails.outliers.calibration import CalibratedDetector
from guardrails.outliers.conformal import Groups, lowered
from guardrails.typing import Mask, Rows, Scores


@dataclass(frozen=True, eq=False)
class Recalibration:
    """A detector calibrated on recent traffic, and what that changes.

    Attributes:
        before, after: the detector as it was and as it would be.
        rows: how many recent rows there were.
        used: how many of them calibrate it.
        flagged_before, flagged_after: the share of the recent rows that is flagged.
    """

    before: CalibratedDetector
    after: CalibratedDetector
    rows: int
    used: int
    flagged_before: float
    flagged_after: float


def recalibrate(
    calibrated: CalibratedDetector,
    scores: Scores,
    *,
    rows: Rows | None = None,
    all_ordinary: bool = False,
    alpha: float | None = None,
) -> Recalibration:
    """Calibrate a detector on the scores of recent traffic.

    Recent traffic holds outliers, which must not calibrate; but to leave out whatever was flagged would be wrong, too:
    a share alpha of ordinary rows was flagged, and without them each recalibration would cut off the tail of the one
    before, flagging more and more. So of the flagged rows, the least strange stay, as many as ordinary traffic must
    have had among them.

    Args:
        calibrated: the detector as it is.
        scores: its scores of recent rows, shape ``(n,)``.
        rows: these rows, shape ``(n, d)``; needed where calibration is by group.
        all_ordinary: every recent row is known to be ordinary; none is left out.
        alpha: the share of ordinary traffic that may be called an outlier; by default as it was.

    Raises:
        ProfileError: there are too few rows for alpha, or groups and no rows.

    Example:
        >>> import numpy as np
        >>> from guardrails import outliers
        >>> rng = np.random.default_rng(0)
        >>> detector = outliers.fit(rng.normal(size=(1000, 2)), detector="mahalanobis", alpha=0.05)
        >>> recent = 1.5 * rng.normal(size=(2000, 2))  # traffic has become wider, and all of it is ordinary
        >>> done = outliers.recalibrate(detector, detector.score(recent), all_ordinary=True)
        >>> done.flagged_before > 0.15, abs(done.flagged_after - 0.05) < 0.005
        (True, True)
    """
    scores = np.asarray(scores, dtype=np.float64)
    flagged = _flagged(calibrated, scores, rows)
    chosen = np.ones(len(scores), dtype=bool) if all_ordinary else _ordinary(scores, flagged, calibrated.share)
    alpha = calibrated.alpha if alpha is None else alpha
    groups = calibrated.groups
    if groups is not None:
        if rows is None:
            raise ProfileError("this detector is calibrated by group, so the recent rows themselves are needed.")
        groups = Groups.of(groups.column, rows[chosen, groups.column], scores[chosen], alpha)
    after = replace(calibrated, calibration=np.sort(scores[chosen]), alpha=alpha, groups=groups)
    now = _flagged(after, scores, rows)
    return Recalibration(calibrated, after, len(scores), int(chosen.sum()), float(flagged.mean()), float(now.mean()))


def _ordinary(scores: Scores, flagged: Mask, share: float) -> Mask:
    """The accepted rows, and the least strange of the flagged ones: as many as were flagged for nothing."""
    expected = round((~flagged).sum() * share / (1.0 - share))
    strangest_last = np.argsort(scores, kind="stable")
    candidates = strangest_last[flagged[strangest_last]]
    chosen = ~flagged
    chosen[candidates[:expected]] = True
    return np.asarray(chosen)


def _flagged(calibrated: CalibratedDetector, scores: Scores, rows: Rows | None) -> Mask:
    if calibrated.groups is None:
        return np.asarray(lowered(scores) > calibrated.threshold)
    return np.zeros(len(scores), dtype=bool) if rows is None else calibrated.is_outlier(rows)
