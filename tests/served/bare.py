"""The services without any guard: what was legal before has to be legal after."""

from __future__ import annotations

import bentoml
import numpy as np

from services.tumor.service import Cases, Diagnosis


@bentoml.service(name="bare", metrics={"enabled": True})
class Bare:
    """The tumor service, undecorated."""

    model = bentoml.models.BentoModel("tumor:latest")

    def __init__(self) -> None:
        self.classifier = bentoml.sklearn.load_model(self.model)

    @bentoml.api
    def diagnose(self, cases: np.ndarray) -> list[Diagnosis]:
        """As in the tumor service."""
        probabilities = self.classifier.predict_proba(np.atleast_2d(cases))[:, 1]
        return [Diagnosis(label="malignant" if p >= 0.5 else "benign", probability=p) for p in probabilities]

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=500)
    async def screen(self, cases: Cases) -> np.ndarray:
        """As in the tumor service."""
        return self.classifier.predict_proba(cases)[:, 1]
