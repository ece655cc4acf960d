"""Train the tumor model, fit its profile, save both in the BentoML model store: ``python -m services.tumor.train``."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import guardrails as gr

MODEL, PROFILE = "tumor", "tumor-profile"
ALPHA = 0.05


def held_out() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """A third of the real cases, which neither the model nor the profile has seen (1 is malignant)."""
    return _split()[1], _split()[3]


def train() -> tuple[str, str]:
    """Train and save; returns the tags of the model and of the profile."""
    X, X_test, y, y_test = _split()
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    metadata = {"held_out_accuracy": round(float(model.score(X_test, y_test)), 4)}
    tag = bentoml.sklearn.save_model(MODEL, model, metadata=metadata).tag
    names = [str(name).replace(" ", "_") for name in load_breast_cancer().feature_names]
    profile = gr.Profile.fit(
        X, outputs=model.predict_proba(X)[:, 1], feature_names=names, alpha=ALPHA, model=tag, calibration=0.5
    )
    return str(tag), str(profile.save(PROFILE))


def _split() -> tuple[Any, ...]:
    data = load_breast_cancer()
    # scikit-learn codes malignant as 0; a probability of being malignant reads better.
    return tuple(train_test_split(data.data, 1 - data.target, test_size=1 / 3, random_state=0, stratify=data.target))


if __name__ == "__main__":
    for saved in train():
        print(f"saved {saved}")
