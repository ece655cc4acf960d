"""The services `benchmarks.switched` compares: one model, bare, and behind guards with something switched on or off.

``python -m benchmarks.switched_services`` trains the model and fits the profile in the store of ``BENTOML_HOME``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import bentoml
import numpy as np

import guardrails as gr
from benchmarks.served_services import SAMPLE_RATE

MODEL, PROFILE = "drift-bench", "drift-bench-profile"
ALPHA, EPSILON, DEADLINE = 0.02, 0.02, 1.0
FEATURES, REFERENCE = 30, 2000

profile = gr.Profile.ref(f"{PROFILE}:latest")
service = bentoml.service(
    workers=1,
    tracing={
        "exporter_type": "otlp",
        "sample_rate": float(os.environ.get(SAMPLE_RATE, "0")),
        "otlp": {"protocol": "http"},
    },
)
install = gr.install(profile=profile, decisions="sqlite:///decisions.db")


class _Model:
    """What every service here does: probabilities (n, 2) for rows (n, 30)."""

    stored = bentoml.models.BentoModel(f"{MODEL}:latest")

    def __init__(self) -> None:
        self.classifier = bentoml.sklearn.load_model(self.stored)

    def refer(self, rows: np.ndarray) -> np.ndarray:
        """What a model that does not know should say."""
        return np.full((len(rows), 2), 0.5)


@service
class Bare(_Model):
    """The model and nothing else."""

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


def guards(*more: Any) -> Any:
    """Every guard but `sample_drift`, and what else is given."""
    return gr.compose(
        gr.traced(deadline=DEADLINE),
        gr.validate(profile, margin=2.0),
        gr.check_outliers(profile, fallback="refer"),
        gr.fall_back(to="refer"),
        gr.explore(gr.EpsilonGreedy(EPSILON)),
        *more,
    )


@gr.install(profile=profile)
@service
class Unrecorded(_Model):
    """No decision is recorded."""

    @bentoml.api
    @guards()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


@install
@service
class Recorded(_Model):
    """Each decision is committed to SQLite."""

    @bentoml.api
    @guards()
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


@install
@service
class Sampled(_Model):
    """Each decision is recorded, and every request is sampled for drift, counted and judged."""

    @bentoml.api
    @guards(gr.sample_drift(profile))
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


def bodies(n: int) -> list[bytes]:
    """Ordinary rows to send, one request each, as JSON; no two alike, for the same few over and over are drift."""
    rows = np.random.default_rng(1).normal(size=(n, 1, FEATURES))
    return [json.dumps({"rows": row.round(6).tolist()}).encode() for row in rows]


def train() -> None:
    """Train the model, fit its profile on other rows."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    X = rng.normal(size=(2 * REFERENCE, FEATURES))
    y = X[:, :3].sum(axis=1) + rng.normal(size=len(X)) > 0
    model = LogisticRegression().fit(X[:REFERENCE], y[:REFERENCE])
    tag = bentoml.sklearn.save_model(MODEL, model).tag
    reference: Any = X[REFERENCE:]
    answers = model.predict_proba(reference)
    gr.Profile.fit(reference, outputs=answers, alpha=ALPHA, model=tag, calibration=0.3).save(PROFILE)


if __name__ == "__main__":
    train()
    sys.exit(0)
