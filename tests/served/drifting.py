"""A service of four workers whose drift is watched: what it is sent is what it was fitted on, until it is not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import bentoml
import numpy as np

import guardrails as gr

FEATURES = 10
PROFILE = gr.Profile.fit(
    np.random.default_rng(0).normal(size=(5000, FEATURES)),
    feature_names=[f"x{i}" for i in range(FEATURES)],
    detector="mahalanobis",
    model="drifting:1",
)


def told(alarm: gr.drift.Alarm) -> None:
    """What the alarm sets off."""
    with Path("alarms.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"pid": os.getpid(), **alarm.to_json()}) + "\n")


@gr.install(profile=PROFILE)
@bentoml.service(workers=int(os.environ.get("DRIFTING_WORKERS", "4")), traffic={"timeout": 20})
class Drifting:
    """Says who answered."""

    @bentoml.api
    @gr.sample_drift(PROFILE, run_length=os.environ.get("DRIFTING_RUN_LENGTH", "30d"), on_alarm=told, debounce="1h")
    def predict(self, rows: np.ndarray) -> dict:
        """The process that answers, and a number."""
        return {"pid": os.getpid(), "prediction": [float(np.asarray(rows).sum())]}
