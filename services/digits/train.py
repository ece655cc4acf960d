"""Train a small network on handwritten digits, fit its profile, save both: ``python -m services.digits.train``."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.neural_network import MLPClassifier

import guardrails as gr
from services.digits.edge_cases import INK, SIDE, Pixels

MODEL, PROFILE = "digits", "digits-profile"
DETECTOR, ALPHA = "feature_space", 0.02

Labels = npt.NDArray[np.int64]


def held_out() -> tuple[Pixels, Labels]:
    """397 of the 1797 real images, which neither the network nor the profile has seen."""
    return _split()[2], _split()[5]


def network() -> MLPClassifier:
    """One hidden layer of 64, trained on 800 of the images."""
    learn, _, _, labels, _, _ = _split()
    chosen = MLPClassifier((64,), alpha=0.1, max_iter=1000, random_state=0)
    return chosen.fit(_rows(learn), labels)


def fit_profile(model: MLPClassifier, tag: Any = None) -> gr.Profile:
    """What ordinary digits look like, from 600 images the network was not trained on, and what it says of them."""
    _, images, _, _, labels, _ = _split()
    return gr.Profile.fit(
        images,
        outputs=model.predict_proba(_rows(images)),
        labels=labels,
        feature_names=[f"line_{i}_dot_{j}" for i in range(SIDE) for j in range(SIDE)],
        detector=DETECTOR,
        alpha=ALPHA,
        model=tag,
        calibration=0.5,
    )


def train() -> tuple[str, str]:
    """Train and save; returns the tags of the model and of the profile."""
    model = network()
    images, labels = held_out()
    accuracy = round(float(model.score(_rows(images), labels)), 4)
    # Weights as arrays, not a pickle: nothing executable, and no scikit-learn where they are served.
    (hidden, output), (hidden_bias, output_bias) = model.coefs_, model.intercepts_
    weights = {"hidden": hidden, "hidden_bias": hidden_bias, "output": output, "output_bias": output_bias}
    with bentoml.models.create(MODEL, metadata={"held_out_accuracy": accuracy}) as stored:
        np.savez(stored.path_of("weights.npz"), **weights)
    return str(stored.tag), str(fit_profile(model, stored.tag).save(PROFILE))


def _rows(images: Pixels) -> Pixels:
    return images.reshape(-1, SIDE * SIDE) / INK


def _split() -> tuple[Any, ...]:
    """Images for the network, the profile and the tests, then their labels in the same order."""
    data = load_digits()
    images, rest, labels, others = train_test_split(
        data.images, data.target, train_size=800, random_state=0, stratify=data.target
    )
    own, kept, own_labels, kept_labels = train_test_split(rest, others, train_size=600, random_state=0, stratify=others)
    return images, own, kept, labels, own_labels, kept_labels


if __name__ == "__main__":
    for saved in train():
        print(f"saved {saved}")
