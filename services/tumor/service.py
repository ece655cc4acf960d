"""A breast tumor: malignant or not? Every guard but exploration: a diagnosis is no place for experiments."""

from __future__ import annotations

from typing import Annotated

import bentoml
import numpy as np
from pydantic import BaseModel, Field

import guardrails as gr

profile = gr.Profile.ref("tumor-profile:latest")


Case = Annotated[list[float], Field(min_length=30, max_length=30)]
Cases = Annotated[list[Case], Field(min_length=1)]


class Diagnosis(BaseModel):
    """What is said of one case.

    Attributes:
        label: ``malignant``, ``benign``, or ``refer to a doctor``.
        probability: of being malignant; None where the model was not asked, or not believed.
    """

    label: str
    probability: float | None = None


@gr.install(profile=profile, decisions="sqlite:///tumor-decisions.db")
@bentoml.service(
    name="tumor",
    workers=2,
    tracing={"exporter_type": "otlp", "sample_rate": 0.0, "otlp": {"protocol": "http"}},
)
class Tumor:
    """Diagnoses cases of 30 measurements each."""

    model = bentoml.models.BentoModel("tumor:latest")

    def __init__(self) -> None:
        self.classifier = bentoml.sklearn.load_model(self.model)

    @bentoml.api
    @gr.traced(deadline=1.0)
    @gr.validate(profile, margin=2.0)
    @gr.check_outliers(profile, fallback="refer_to_doctor")
    @gr.fall_back(to="refer_to_doctor", timeout=2.0)
    @gr.sample_drift(profile)
    def diagnose(self, cases: np.ndarray) -> list[Diagnosis]:
        """Diagnose cases: (n, 30) measurements, in the order of the profile's columns."""
        probabilities = self.classifier.predict_proba(np.atleast_2d(cases))[:, 1]
        return [Diagnosis(label="malignant" if p >= 0.5 else "benign", probability=p) for p in probabilities]

    def refer_to_doctor(self, cases: np.ndarray) -> list[Diagnosis]:
        """What a model that does not know should say."""
        return [Diagnosis(label="refer to a doctor") for _ in np.atleast_2d(cases)]

    @bentoml.api(batchable=True, max_batch_size=64, max_latency_ms=500)
    @gr.traced(deadline=1.0)
    @gr.check_outliers(profile, fallback=gr.constant(np.array([-1.0])))
    @gr.sample_drift(profile)
    async def screen(self, cases: Cases) -> np.ndarray:
        """The probability of being malignant, (n, 30) to (n,), many clients at once; -1 means: ask a doctor.

        The type says all about the form, because BentoML joins the clients' rows before any guard sees them: rubbish
        has to be refused before it meets the rows of others.
        """
        probabilities: np.ndarray = self.classifier.predict_proba(cases)[:, 1]
        return probabilities
