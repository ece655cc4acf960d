"""The services `benchmarks.served` compares: one model, bare, behind all guards, and with alibi-detect in the handler.

``python -m benchmarks.served_services`` trains the model and fits the profile in the model store of ``BENTOML_HOME``.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import bentoml
import numpy as np

import guardrails as gr

MODEL, PROFILE = "bench", "bench-profile"
SAMPLE_RATE = "GUARDRAILS_BENCH_SAMPLE_RATE"
ALPHA, EPSILON, DRIFT_RATE = 0.02, 0.02, 0.1
DEADLINE, TIMEOUT = 1.0, 0.2

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


@install
@service
class Installed(_Model):
    """No guard: what `install` spares by itself (the ASGI layer's spans, a media type worked out per response)."""

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


@install
@service
class Guarded(_Model):
    """Every guard; the deadline measures."""

    @bentoml.api
    @gr.traced(deadline=DEADLINE)
    @gr.validate(profile, margin=2.0)
    @gr.check_outliers(profile, fallback="refer")
    @gr.fall_back(to="refer")
    @gr.explore(gr.EpsilonGreedy(EPSILON))
    @gr.sample_drift(profile, rate=DRIFT_RATE)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


@install
@service
class Timed(_Model):
    """Every guard, and a timeout that interrupts: each call runs in a thread that can be left behind."""

    @bentoml.api
    @gr.traced(deadline=DEADLINE)
    @gr.validate(profile, margin=2.0)
    @gr.check_outliers(profile, fallback="refer")
    @gr.fall_back(to="refer", timeout=TIMEOUT)
    @gr.explore(gr.EpsilonGreedy(EPSILON))
    @gr.sample_drift(profile, rate=DRIFT_RATE)
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return self.classifier.predict_proba(rows)


@service
class Inline(_Model):
    """The contrast: an outlier check as one would write it, with alibi-detect's isolation forest in the handler."""

    def __init__(self) -> None:
        from alibi_detect.od import IForest

        super().__init__()
        training, _ = halves()
        self.detector = IForest(n_estimators=100)
        self.detector.fit(training)
        self.detector.infer_threshold(training, threshold_perc=100 * (1 - ALPHA))

    @bentoml.api
    def predict(self, rows: np.ndarray) -> np.ndarray:
        if self.detector.predict(rows)["data"]["is_outlier"].any():
            return self.refer(rows)
        return self.classifier.predict_proba(rows)


def halves() -> tuple[Any, Any]:
    """Breast cancer cases, 30 measurements each: a half to train on, a half to send."""
    from sklearn.datasets import load_breast_cancer

    rows = load_breast_cancer().data
    order = np.random.default_rng(0).permutation(len(rows))
    return rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]


def bodies() -> list[bytes]:
    """The rows to send, one request each, as JSON."""
    return [json.dumps({"rows": [row.tolist()]}).encode() for row in halves()[1]]


def train() -> None:
    """Train the model and fit its profile on the same half of the cases."""
    from sklearn.datasets import load_breast_cancer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    data = load_breast_cancer()
    order = np.random.default_rng(0).permutation(len(data.data))[: len(data.data) // 2]
    X, y = data.data[order], data.target[order]
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(X, y)
    tag = bentoml.sklearn.save_model(MODEL, model).tag
    outputs = model.predict_proba(X)
    gr.Profile.fit(X, outputs=outputs, alpha=ALPHA, model=tag, calibration=0.5).save(PROFILE)


if __name__ == "__main__":
    train()
    sys.exit(0)
