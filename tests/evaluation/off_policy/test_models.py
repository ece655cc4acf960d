"""Cross-fitted reward models."""

import numpy as np
import pytest
from sklearn.tree import DecisionTreeRegressor

from guardrails.evaluation import cross_fitted, dr


def logged(n=900, K=4, seed=0):
    """Features, actions, rewards."""
    rng = np.random.default_rng(seed)
    X, action = rng.normal(size=(n, 3)), rng.integers(0, K, n)
    chance = 1 / (1 + np.exp(-X[:, 0] * (action - 1.5)))
    return X, action, (rng.random(n) < chance) * 1.0


def test_means_are_those_of_the_other_folds():
    """Each row's prediction is the mean of its action's rows outside of its fold, shrunk as told."""
    _, action, reward = logged()
    for prior in (0.0, 7.0):
        q = cross_fitted(None, action, reward, 4, prior_rows=prior)
        for row in (0, 1, 2, 500):
            others = np.arange(900) % 3 != row % 3
            mine = others & (action == 2)
            expected = (reward[mine].sum() + prior * reward[others].mean()) / (mine.sum() + prior)
            assert q[row, 2] == pytest.approx(expected, rel=1e-12)


def test_positions_have_means_of_their_own():
    """A row's prediction is for its own position."""
    rng = np.random.default_rng(0)
    action, place = rng.integers(0, 2, 3000), rng.integers(0, 3, 3000)
    reward = 0.1 * action + 0.2 * place
    q = cross_fitted(None, action, reward, 2, position=place, prior_rows=0)
    assert q[np.arange(3000), action] == pytest.approx(reward)


def test_an_action_never_seen_gets_the_mean_of_all():
    """No row of it in the other folds, no opinion."""
    q = cross_fitted(None, [0, 0, 0, 0], [1.0, 0.0, 1.0, 0.0], 2, folds=2, prior_rows=0)
    assert q[:, 1].tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize("model", ["ridge", "logistic", DecisionTreeRegressor(random_state=0)], ids=str)
def test_no_model_sees_the_row_it_predicts(model):
    """Changing one row's reward changes no prediction for that row, but some for others."""
    X, action, reward = logged()
    before = cross_fitted(X, action, reward, 4, model=model)
    other = reward.copy()
    other[10] = 1 - other[10]
    after = cross_fitted(X, action, other, 4, model=model)
    assert after[10].tolist() == before[10].tolist()
    assert (after != before).any()


@pytest.mark.parametrize("model", [None, "logistic"], ids=str)
def test_features_help(model):
    """Where rewards follow features the models are nearer to them than means, and stay within the rewards seen."""
    X, action, reward = logged(6000)
    i = np.arange(6000)
    with_features = cross_fitted(X, action, reward, 4, model=model)[i, action]
    without = cross_fitted(None, action, reward, 4)[i, action]
    assert ((reward - with_features) ** 2).mean() < 0.95 * ((reward - without) ** 2).mean()
    assert 0 <= with_features.min() <= with_features.max() <= 1


def test_rows_of_a_unit_stay_together():
    """With a unit's rows in one fold, changing one of them changes no prediction for any of them."""
    X, action, reward = logged()
    unit = np.arange(900) // 9
    before = cross_fitted(X, action, reward, 4, unit=unit)
    other = reward.copy()
    other[0] = 1 - other[0]
    after = cross_fitted(X, action, other, 4, unit=unit)
    assert (after[:9] == before[:9]).all()
    assert (after != before).any()


def test_a_model_trained_on_its_own_rows_would_mislead():
    """The reason for folds: a tree that has seen its rows makes DR sure and wrong; cross-fitted it is right."""
    rng = np.random.default_rng(0)
    n = 3000
    X, action = rng.normal(size=(n, 3)), (rng.random(n) < 0.1).astype(int)
    reward = (rng.random(n) < 0.5) * 1.0
    p, t = np.where(action, 0.1, 0.9), action * 1.0
    tree = DecisionTreeRegressor(random_state=0)
    q = cross_fitted(X, action, reward, 2, model=tree)
    right = dr(reward, p, t, q[np.arange(n), action], q[:, 1], interval="delta")
    assert right.low < 0.5 < right.high
    seen = tree.fit(X[action == 1], reward[action == 1]).predict(X)
    wrong = dr(reward, p, t, np.where(action == 1, seen, 0.5), seen, interval="delta")
    assert wrong.high - wrong.low < 0.3 * (right.high - right.low)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"action": [0, 9, 1, 0]}, "from 0 to 1"),
        ({"folds": 1}, "from 2 to the number of rows"),
        ({"folds": [0, 0, 0, 0]}, "one fold"),
        ({"model": "ridge", "features": None}, "learns from features"),
        ({"model": "forest"}, "must be 'mean'"),
        ({"model": "logistic", "reward": [0.5, 0, 1, 1]}, "rewards of 0 and 1"),
        ({"prior_rows": -1}, "prior_rows"),
        ({"features": [[1.0], [np.nan], [1.0], [2.0]]}, "features is not a finite number in row 1"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    """ValueError with a sentence."""
    right = {"features": [[1.0], [2.0], [3.0], [4.0]], "action": [0, 1, 1, 0], "reward": [1.0, 0.0, 1.0, 0.0], "K": 2}
    cross_fitted(**right)
    with pytest.raises(ValueError, match=says):
        cross_fitted(**{**right, **change})
