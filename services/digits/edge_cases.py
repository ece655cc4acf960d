"""Images that are no ordinary digits: what cameras, feeders and people do to them, and what is no digit at all."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

SIDE, INK = 8, 16.0
"""Pixels in a line, and the value of the darkest one; 0 is blank paper."""

Pixels = npt.NDArray[np.float64]


def rotated(images: Pixels, degrees: float) -> Pixels:
    """The sheet lay askew: ``(n, 8, 8)`` images turned by some degrees, cut to the same square.

    By 180 degrees some digits are digits still: 0, 1 and 8 themselves, 6 and 9 each other.

    Example:
        >>> from sklearn.datasets import load_digits
        >>> images = load_digits().images[:5]
        >>> bool((rotated(images, 180) == images[:, ::-1, ::-1]).all())
        True
    """
    if degrees % 90 == 0:
        return np.rot90(images, round(degrees / 90), axes=(1, 2))
    turned = ndimage.rotate(images, degrees, axes=(2, 1), reshape=False, order=1)
    return np.asarray(np.clip(turned, 0.0, INK), dtype=np.float64)


def noisy(images: Pixels, deviation: float = 4.0, seed: int = 0) -> Pixels:
    """A bad sensor: normal noise of this standard deviation (in the units of a pixel) on every pixel."""
    noise = np.random.default_rng(seed).normal(0.0, deviation, images.shape)
    return np.asarray(np.clip(images + noise, 0.0, INK), dtype=np.float64)


def inverted(images: Pixels) -> Pixels:
    """White on black: somebody changed the scanner's settings."""
    return np.asarray(INK - images, dtype=np.float64)


def checkered(n: int, seed: int = 0) -> Pixels:
    """Checkerboards ``(n, 8, 8)`` with fields of 1, 2 or 4 pixels: a test pattern on the glass."""
    rng = np.random.default_rng(seed)
    field = rng.choice([1, 2, 4], (n, 1, 1))
    line, dot = np.indices((SIDE, SIDE))
    ink = (line // field + dot // field + rng.integers(0, 2, (n, 1, 1))) % 2
    return np.asarray(ink * rng.uniform(INK / 2, INK, (n, 1, 1)), dtype=np.float64)


def foreign(n: int, seed: int = 0) -> Pixels:
    """Patches of something else ``(n, 8, 8)``, smooth and grey as those of photographs are, from white to black."""
    noise = np.random.default_rng(seed).normal(size=(n, SIDE, SIDE))
    smooth = ndimage.gaussian_filter(noise, (0.0, 1.0, 1.0), mode="wrap")
    low, high = smooth.min(axis=(1, 2), keepdims=True), smooth.max(axis=(1, 2), keepdims=True)
    return np.asarray(INK * (smooth - low) / (high - low), dtype=np.float64)


def every_kind(images: Pixels, seed: int = 0) -> dict[str, Pixels]:
    """Edge cases of every kind by name, each ``(n, 8, 8)``, made of these images or as many as these."""
    n = len(images)
    return {
        "askew by 45 degrees": rotated(images, 45),
        "askew by 90 degrees": rotated(images, 90),
        "upside down": rotated(images, 180),
        "a little noisy": noisy(images, 1.0, seed),
        "noisy": noisy(images, 4.0, seed),
        "inverted": inverted(images),
        "checkered": checkered(n, seed),
        "foreign": foreign(n, seed),
    }
