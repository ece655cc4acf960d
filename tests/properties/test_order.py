"""Any subset of the decorators, in any order, is the same pipeline and gives the same answers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest

import guardrails as gr

ORDINARY, OUTLIER, INVALID = [0.1, 0.2], [6.0, -6.0], [1e9, 0.0]
NAMES = ("traced", "validate", "check_outliers", "fall_back", "explore", "sample_drift")
STAGES = ("validate", "check_outliers", "traced", "explore", "sample_drift", "fall_back")
SAID = {
    "model": [0.0, 0.7, 0.2],
    "explored": [0.7, 0.0, 0.2],
    "invalid": [-1.0] * 3,
    "outlier": [-2.0] * 3,
    "broken": [-3.0] * 3,
}


class FirstAction:
    """A policy without chance: always the first action, which the model never likes best."""

    def pmf(self, scores: np.ndarray) -> np.ndarray:
        return np.eye(scores.shape[-1])[np.zeros(scores.shape[:-1], dtype=int)]


def constant(word: str) -> Any:
    return gr.constant(np.array([SAID[word]]))


@pytest.fixture(scope="module")
def decorators(profile: gr.Profile) -> dict[str, Callable[[Any], Any]]:
    return {
        "traced": gr.traced(deadline=60.0),
        "validate": gr.validate(profile, on_invalid=constant("invalid")),
        "check_outliers": gr.check_outliers(profile, fallback=constant("outlier")),
        "fall_back": gr.fall_back(to=constant("broken"), on=(ZeroDivisionError,)),
        "explore": gr.explore(FirstAction()),
        "sample_drift": gr.sample_drift(profile),
    }


def fresh() -> Callable[..., np.ndarray]:
    def predict(rows: np.ndarray, fail: bool = False) -> np.ndarray:
        if fail:
            raise ZeroDivisionError("model")
        return np.tile(SAID["model"], (len(rows), 1))

    return predict


def stacked(decorators: Iterable[Callable[[Any], Any]]) -> Callable[..., np.ndarray]:
    fn = fresh()
    for decorator in decorators:
        fn = decorator(fn)
    return fn


def expected(names: Iterable[str], rows: list[list[float]], *, fail: bool) -> list[list[float]] | None:
    """What the guards promise, row by row; None where the model's exception is the caller's."""
    answers = []
    for row in rows:
        if row is INVALID and "validate" in names:
            answers.append(SAID["invalid"])
        elif row in (INVALID, OUTLIER) and "check_outliers" in names:
            answers.append(SAID["outlier"])
        elif not fail:
            answers.append(SAID["explored" if "explore" in names else "model"])
        elif "fall_back" in names:
            answers.append(SAID["broken"])
        else:
            return None
    return answers


def ask(fn: Callable[..., np.ndarray], rows: list[list[float]], *, fail: bool) -> list[list[float]] | None:
    try:
        return fn(np.array(rows), fail).tolist()
    except ZeroDivisionError:
        return None


REQUESTS = [
    ([ORDINARY], False),
    ([ORDINARY], True),
    ([OUTLIER], False),
    ([INVALID], False),
    ([ORDINARY, OUTLIER, ORDINARY, INVALID], False),
    ([INVALID, ORDINARY, OUTLIER], True),
    ([INVALID, INVALID], False),
]


def test_every_permutation_is_one_pipeline(decorators: dict[str, Any]) -> None:
    """All 720 ways to stack six decorators give the same order of guards."""
    for order in itertools.permutations(NAMES):
        assert gr.pipeline_of(stacked(decorators[name] for name in order)).stages == STAGES


def test_every_permutation_gives_the_same_answers(decorators: dict[str, Any]) -> None:
    """All 720 ways to stack them answer ordinary, outlying, invalid, mixed and failing requests alike."""
    wanted = [expected(NAMES, rows, fail=fail) for rows, fail in REQUESTS]
    for order in itertools.permutations(NAMES):
        fn = stacked(decorators[name] for name in order)
        for (rows, fail), answer in zip(REQUESTS, wanted, strict=True):
            assert ask(fn, rows, fail=fail) == answer, order


def test_compose_ignores_the_order_of_its_arguments(decorators: dict[str, Any]) -> None:
    """compose() of any permutation is that same pipeline, also when it is nested or stacked with the rest."""
    for order in itertools.permutations(NAMES):
        parts = [decorators[name] for name in order]
        one = gr.compose(*parts)(fresh())
        nested = gr.compose(parts[0], gr.compose(*parts[1:4]), *parts[4:])(fresh())
        mixed = parts[0](gr.compose(*parts[1:5])(parts[5](fresh())))
        assert gr.pipeline_of(one).stages == gr.pipeline_of(nested).stages == gr.pipeline_of(mixed).stages == STAGES


def test_composed_answers_are_those_of_the_stack(decorators: dict[str, Any]) -> None:
    """A composed decorator used on two methods answers as the stack does on both."""
    house = gr.compose(*decorators.values())
    for fn in (house(fresh()), house(fresh())):
        for rows, fail in REQUESTS:
            assert ask(fn, rows, fail=fail) == expected(NAMES, rows, fail=fail)


@pytest.mark.parametrize("size", range(len(NAMES) + 1))
def test_every_subset_works_alone(decorators: dict[str, Any], size: int) -> None:
    """Each of the 64 subsets does what its members promise, and nothing more, on a plain function."""
    for names in itertools.combinations(NAMES, size):
        fn = stacked(decorators[name] for name in names)
        if names:
            assert gr.pipeline_of(fn).stages == tuple(stage for stage in STAGES if stage in names)
        for rows, fail in REQUESTS:
            assert ask(fn, rows, fail=fail) == expected(names, rows, fail=fail), (names, rows, fail)


def test_guards_of_one_stage_run_as_written() -> None:
    """Ties keep the order of the stack, the upper one first."""
    ran: list[str] = []

    class Noting:
        stage = gr.Stage.CHECK

        def __init__(self) -> None:
            self.name = type(self).__name__

        def bind(self, method: Any) -> Any:
            from guardrails.typing import Hooks

            return Hooks(lambda call: ran.append(f"before {self.name}"), lambda call: ran.append(f"after {self.name}"))

        def __call__(self, fn: Any) -> Any:
            from guardrails.core.pipeline import attach

            return attach(self, fn)

    class Upper(Noting):
        pass

    class Lower(Noting):
        pass

    Upper()(Lower()(fresh()))(np.zeros((1, 2)))
    assert ran == ["before Upper", "before Lower", "after Lower", "after Upper"]
