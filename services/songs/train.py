"""Generate listeners, songs and what became of them; train, fit the profile: ``python -m services.songs.train``."""

from __future__ import annotations

import bentoml
import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.multioutput import MultiOutputClassifier

import guardrails as gr

MODEL, PROFILE = "songs", "songs-profile"
TASTES, SONGS = 8, 20
NAMES = [f"taste_{i}" for i in range(TASTES)] + ["age", "hours_a_week"]
ALPHA = 0.02

Array = npt.NDArray[np.float64]


def listeners(n: int, seed: int) -> Array:
    """Ordinary listeners: tastes around zero, an age, hours of listening a week."""
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.normal(size=(n, TASTES)), rng.normal(38, 12, n).clip(12, 90), rng.gamma(3, 3, n)])


def likes(who: Array, seed: int) -> npt.NDArray[np.int64]:
    """Which of the songs they like, (n, SONGS): by taste, plus luck."""
    songs = np.random.default_rng(7).normal(size=(TASTES, SONGS))
    chance = 1 / (1 + np.exp(-(who[:, :TASTES] @ songs) / 2 + 1.0))
    liked: npt.NDArray[np.int64] = (np.random.default_rng(seed).random(chance.shape) < chance).astype(np.int64)
    return liked


def train() -> tuple[str, str]:
    """Train and save; returns the tags of the model and of the profile."""
    X = listeners(4000, seed=1)
    model = MultiOutputClassifier(LogisticRegression(max_iter=500)).fit(X, likes(X, seed=2))
    weights = {
        "coefficients": np.vstack([one.coef_ for one in model.estimators_]).T,
        "intercepts": np.concatenate([one.intercept_ for one in model.estimators_]),
        "charts": likes(X, seed=2).mean(axis=0),
    }
    with bentoml.models.create(MODEL) as stored:
        np.savez(stored.path_of("weights.npz"), **weights)
    scores = 1 / (1 + np.exp(-(X @ weights["coefficients"] + weights["intercepts"])))
    profile = gr.Profile.fit(X, outputs=scores, feature_names=NAMES, alpha=ALPHA, model=stored.tag)
    return str(stored.tag), str(profile.save(PROFILE))


if __name__ == "__main__":
    for saved in train():
        print(f"saved {saved}")
