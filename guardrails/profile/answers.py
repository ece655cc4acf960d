"""A model's answers as columns to watch: what it predicted, how sure it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

PREDICTION, CONFIDENCE, OUTPUT = "__prediction__", "__confidence__", "__output__"
FIELDS = ("scores", "probability", "prediction", "label")
"""Where an answer made of named fields says what it predicts; the first one it has counts."""

Columns = dict[str, npt.NDArray[np.float64]]


def columns(answer: Any, n: int) -> Columns | None:
    """Read the answers to ``n`` rows as columns.

    Args:
        answer: ``(n, K)`` scores, ``(n,)`` labels or numbers, a list of these, or mappings or models that have one
            of the fields in `FIELDS`.
        n: how many rows were asked.

    Returns:
        ``__prediction__`` and ``__confidence__`` for scores, ``__prediction__`` for integer labels, ``__output__`` for
        numbers; None where the answer says nothing by rows (text, a stream, a mapping without such fields).
    """
    array = _array(answer)
    if array is None:
        return None
    if array.ndim <= 1 and n == 1 and array.size > 1:
        array = array.reshape(1, -1)
    elif array.ndim == 0:
        array = array.reshape(1)
    if len(array) != n or array.ndim > 2:  # noqa: PLR2004
        return None
    if array.ndim == 2 and array.shape[1] > 1:  # noqa: PLR2004
        scores = array.astype(np.float64)
        return {PREDICTION: scores.argmax(axis=1).astype(np.float64), CONFIDENCE: scores.max(axis=1)}
    values = array.reshape(n).astype(np.float64)
    return {PREDICTION if array.dtype.kind in "biu" else OUTPUT: values}


def _array(answer: Any) -> npt.NDArray[Any] | None:
    if isinstance(answer, list | tuple) and len(answer) and _has_fields(answer[0]):
        answer = [_said(entry) for entry in answer]
    elif _has_fields(answer):
        answer = _said(answer)
    if answer is None:
        return None
    try:
        array = np.asarray(answer)
    except Exception:  # noqa: BLE001  # rows of different lengths, or an __array__ of the user's own
        return None
    return array if array.dtype.kind in "biuf" and array.size else None


def _has_fields(value: Any) -> bool:
    return isinstance(value, Mapping) or hasattr(value, "model_dump")


def _said(entry: Any) -> Any:
    fields = entry if isinstance(entry, Mapping) else {name: getattr(entry, name, None) for name in FIELDS}
    return next((fields[name] for name in FIELDS if fields.get(name) is not None), None)
