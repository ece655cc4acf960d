"""Reward models for doubly robust estimates: what each candidate would have earned, in rows not learnt from."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from guardrails.evaluation.off_policy.arrays import Floats, Ints, groups, matrix, numbers, vector

FEW_ROWS = 20
"""An action with fewer rows than this is predicted by its shrunken mean."""
MEAN, RIDGE, LOGISTIC = "mean", "ridge", "logistic"


def cross_fitted(
    features: npt.ArrayLike | None,
    action: npt.ArrayLike,
    reward: npt.ArrayLike,
    K: int,
    *,
    folds: int | npt.ArrayLike = 3,
    model: Any = None,
    position: npt.ArrayLike | None = None,
    unit: npt.ArrayLike | None = None,
    prior_rows: float = 10.0,
) -> Floats:
    """Predict every candidate's reward in every row, by a model that was not trained on that row.

    A model that has seen the row it predicts makes `dr` believe it is better than it is. Of the result `q`,
    ``q[np.arange(n), action]`` is `q_logged` and ``(target_pmf * q).sum(axis=1)`` is `q_target`.

    Args:
        features: what was known of each row, shape ``(n, d)``; None for means.
        action: which candidate was served, from 0, shape ``(n,)``.
        reward: what it earned, shape ``(n,)``.
        K: candidates.
        folds: how many parts, row i in part i % folds (so each part covers the whole time); or the part of each row,
            shape ``(n,)``.
        model: ``"mean"``: of each action, and position if there is one, shrunk towards the mean of all (default
            without features); ``"ridge"`` (default with features) or ``"logistic"`` (rewards 0 and 1) of each action,
            on standardised features; or any scikit-learn estimator, which is cloned for each action and predicts by
            ``predict_proba`` if it has it. Actions with fewer than 20 rows get their shrunken mean. Predictions are
            kept within the rewards seen.
        position: where the candidate was shown, a whole number from 0, shape ``(n,)``; a feature like the others for
            the models that learn.
        unit: rows of one unit stay in one part, shape ``(n,)``.
        prior_rows: of means: how many rows at the mean of all each of them starts with.

    Returns:
        Shape ``(n, K)``.

    Raises:
        ValueError: arrays do not fit together, or the model does not fit them.

    Example:
        >>> q = cross_fitted(None, [0, 1, 0, 1, 0, 1], [0, 1, 0, 1, 0, 1], K=2, prior_rows=0)
        >>> q[0].tolist()
        [0.0, 1.0]
    """
    rewards = vector(reward, "reward")
    n = len(rewards)
    actions = numbers(action, "action", n, K)
    places = np.zeros(n, np.int64) if position is None else numbers(position, "position", n, None)
    X = None if features is None else matrix(features, "features", n)
    made = _made(model, X, rewards)
    part = _parts(folds, n, groups(unit, n))
    if made is not None and X is not None and position is not None:
        X = np.column_stack([X, places[:, None] == np.unique(places)[None, :]])
    q = np.empty((n, K))
    for number in np.unique(part):
        learn, say = part != number, part == number
        means = _means(actions[learn], places[learn], rewards[learn], (K, int(places.max()) + 1), prior_rows)
        q[say] = means[:, places[say]].T
        if made is not None and X is not None:
            q[say] = _learnt(made, (X[learn], actions[learn], rewards[learn]), X[say], q[say])
    return q


def _made(model: Any, X: Floats | None, reward: Floats) -> Any:
    """The estimator to clone; None for means."""
    if model is None:
        model = MEAN if X is None else RIDGE
    if model == MEAN:
        return None
    if X is None:
        raise ValueError(f"the model {model!r} learns from features, and there are none: give them, or take 'mean'.")
    if not isinstance(model, str):
        return model
    from sklearn.linear_model import LogisticRegression, Ridge
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if model == RIDGE:
        return make_pipeline(StandardScaler(), Ridge())
    if model != LOGISTIC:
        raise ValueError(f"model is {model!r}; it must be 'mean', 'ridge', 'logistic' or a scikit-learn estimator.")
    if not np.isin(reward, (0.0, 1.0)).all():
        raise ValueError("the model 'logistic' needs rewards of 0 and 1; take 'ridge'.")
    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))


def _parts(folds: int | npt.ArrayLike, rows: int, unit: Ints | None) -> Ints:
    """The part of each row."""
    if not isinstance(folds, int | np.integer):
        part = numbers(folds, "folds", rows, None)
    elif not 2 <= folds <= rows:  # noqa: PLR2004
        raise ValueError(f"folds is {folds}; it must be from 2 to the number of rows, {rows}.")
    else:
        part = np.arange(rows) % int(folds) if unit is None else unit % int(folds)
    if part.min() == part.max():
        raise ValueError("all rows are in one fold: a model would have to predict what it has learnt from.")
    return part


def _means(action: Ints, place: Ints, reward: Floats, shape: tuple[int, int], prior_rows: float) -> Floats:
    """The mean reward of each action at each place, with some rows at the mean of all; shape ``(K, places)``."""
    if not 0 <= prior_rows < np.inf:
        raise ValueError(f"prior_rows is {prior_rows}; it must be a number of rows, 0 or more.")
    cell, cells = action * shape[1] + place, shape[0] * shape[1]
    rows, sums = np.bincount(cell, minlength=cells), np.bincount(cell, reward, cells)
    overall = reward.mean()
    known = rows + prior_rows > 0
    means = np.divide(sums + prior_rows * overall, rows + prior_rows, out=np.full(cells, overall), where=known)
    return means.reshape(shape)


def _learnt(made: Any, learn: tuple[Floats, Ints, Floats], X: Floats, q: Floats) -> Floats:
    """Predictions for the rows of `X`, one model per action; `q` where an action has too few rows."""
    from sklearn.base import clone

    known, action, reward = learn
    classifies = hasattr(made, "predict_proba")
    found = q.copy()
    for k in range(q.shape[1]):
        mine = action == k
        if mine.sum() < FEW_ROWS or (reward[mine] == reward[mine][0]).all():
            continue
        fitted = clone(made).fit(known[mine], reward[mine])
        said = fitted.predict_proba(X) @ fitted.classes_ if classifies else fitted.predict(X)
        found[:, k] = np.clip(said, reward.min(), reward.max())
    return found
