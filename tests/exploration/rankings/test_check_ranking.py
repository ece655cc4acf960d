"""testing.check_ranking: correct policies pass, every broken one is found, and for what it is."""

import dataclasses
import itertools

import numpy as np
import pytest

from guardrails.exploration.rankings import Boost, FairPairs, PlackettLuce, PoolInjection, Ranked, SwapPositions
from guardrails.testing.rankings import check_ranking


@pytest.mark.parametrize(
    "policy",
    [
        PoolInjection(0.1, 3, insert="shift", boost=Boost()),
        PoolInjection(1.0, 8),
        FairPairs(4, 0.3),
        SwapPositions(0.3, 4, 2),
        PlackettLuce(0.5, 3),
    ],
    ids=repr,
)
def test_ours_pass(policy):
    """The kit has nothing to say."""
    check_ranking(policy)


def test_many_rare_lists_are_no_alarm():
    """20 candidates on 5 slots: nearly every list comes once."""
    check_ranking(PlackettLuce(2.0, 5), candidates=20)


class Honest:
    """Uniform lists, by hand; the broken ones change one thing each."""

    kind = "ranking"
    slots = 2

    def organic(self, scores):
        return tuple((-np.asarray(scores)).argsort(kind="stable")[:2].tolist())

    def look(self, scores):
        if np.isnan(scores).any() or scores.shape[-1] < 2:
            raise ValueError

    def pmf(self, scores, /, items=None):
        self.look(scores)
        return np.full((*scores.shape[:-1], 2, scores.shape[-1]), 1 / scores.shape[-1])

    def sample(self, scores, uniforms, /, items=None):
        self.look(scores)
        lists = list(itertools.permutations(range(len(scores)), 2))
        order = lists[int(uniforms(1)[0] * len(lists))]
        return Ranked(order, 1 / len(lists), np.full((2, 2), 1 / len(scores)))


def change(**fields):
    """A policy whose drawn list is changed after the fact."""

    class Changed(Honest):
        def sample(self, scores, uniforms, /, items=None):
            ranked = super().sample(scores, uniforms)
            return ranked._replace(**{name: how(ranked, scores) for name, how in fields.items()})

    return Changed


class Skewed(Honest):
    def sample(self, scores, uniforms, /, items=None):
        lists = list(itertools.permutations(range(len(scores)), 2))
        self.look(scores)
        return Ranked(lists[int(uniforms(1)[0] ** 1.1 * len(lists))], 1 / len(lists), None)


class Paired(Honest):
    """Right at each position, wrong as lists: the second always follows the first."""

    def sample(self, scores, uniforms, /, items=None):
        self.look(scores)
        first = int(uniforms(1)[0] * len(scores))
        return Ranked((first, (first + 1) % len(scores)), 1 / (len(scores) * (len(scores) - 1)), None)


class Random(Honest):
    rng = np.random.default_rng(0)

    def sample(self, scores, uniforms, /, items=None):
        return super().sample(scores, lambda n: self.rng.random(n).tolist())


class RandomPmf(Honest):
    rng = np.random.default_rng(0)

    def pmf(self, scores, /, items=None):
        return np.roll(super().pmf(scores), 1) * (1 + 1e-12 * self.rng.random())


class TakesNaN(Honest):
    def look(self, scores):
        if scores.shape[-1] < 2:
            raise ValueError


class TakesTooFew(Honest):
    def look(self, scores):
        if np.isnan(scores).any():
            raise ValueError

    def sample(self, scores, uniforms, /, items=None):
        return super().sample(scores, uniforms) if len(scores) > 1 else Ranked((0,), 1.0, None)


class Unstable(Honest):
    def organic(self, scores):
        return tuple(np.asarray(scores).argsort(kind="stable")[::-1][:2].tolist())


class TwiceOnTheList(Honest):
    def pmf(self, scores, /, items=None):
        self.look(scores)
        out = np.zeros((*scores.shape[:-1], 2, scores.shape[-1]))
        out[..., 0] = 1.0
        return out


class Negative(Honest):
    def pmf(self, scores, /, items=None):
        pmf = super().pmf(scores)
        pmf[..., 0] -= 0.5
        pmf[..., 1] += 0.5
        return pmf


class NotOne(Honest):
    def pmf(self, scores, /, items=None):
        return 0.9 * super().pmf(scores)


class OneRowOnly(Honest):
    def pmf(self, scores, /, items=None):
        return super().pmf(scores.reshape(-1))


class OtherInABatch(Honest):
    def pmf(self, scores, /, items=None):
        pmf = super().pmf(scores)
        if scores.ndim > 1:
            pmf[..., 0] += 0.05
            pmf[..., 1] -= 0.05
        return pmf


class Spoils(Honest):
    def pmf(self, scores, /, items=None):
        pmf = super().pmf(scores)
        scores += 1
        return pmf


class Upside(PoolInjection):
    """Serves the organic list when it should explore, and states it so."""

    def sample(self, scores, uniforms, /, items=None):
        return super().sample(scores, lambda n: [1 - uniforms(n)[0] ** 4, *uniforms(n)[1:]])


class Contrary(PoolInjection):
    """Honest about it, but what it serves as a rule is not the organic list."""

    def turn(self, scores):
        return np.where(np.isnan(scores), scores, -np.asarray(scores))

    def pmf(self, scores, /, items=None):
        return super().pmf(self.turn(scores))

    def sample(self, scores, uniforms, /, items=None):
        return super().sample(self.turn(scores), uniforms)


BROKEN = [
    (type("Kind", (Honest,), {"kind": "choice"}), "kind"),
    (type("Long", (Honest,), {"slots": 9}), "too few"),
    (type("ThreeSlots", (Honest,), {"slots": 3}), "shape"),
    (OneRowOnly, "shape"),
    (Negative, "negative"),
    (NotOne, "sum to one"),
    (TwiceOnTheList, "column"),
    (RandomPmf, "differs"),
    (Spoils, "changes the scores"),
    (OtherInABatch, "alone"),
    (TakesNaN, "NaN"),
    (TakesTooFew, "fewer"),
    (Unstable, "organic"),
    (Skewed, "position"),
    (Paired, "propensit"),
    (Random, "sample.. of the same numbers"),
    (change(order=lambda ranked, scores: (ranked.order[0],) * 2), "twice"),
    (change(order=lambda ranked, scores: ranked.order[:1]), "a list of 1"),
    (change(order=lambda ranked, scores: (ranked.order[0], 99)), "no candidate"),
    (change(order=lambda ranked, scores: tuple(np.array(ranked.order))), "plain ints"),
    (change(propensity=lambda ranked, scores: 0.0), "a propensity of 0"),
    (change(propensity=lambda ranked, scores: ranked.propensity * 2), "more than one"),
    (change(propensity=lambda ranked, scores: ranked.propensity / 2), "propensities"),
    (change(propensity=lambda ranked, scores: 0.5 / (1 + ranked.order[0])), "more than one|propensities"),
    (change(marginals=lambda ranked, scores: ranked.marginals * 1.01), "marginals"),
    (change(marginals=lambda ranked, scores: ranked.marginals[:1]), "marginals have shapes"),
    (lambda: Upside(0.2, 2), "position|propensit"),
    (lambda: Contrary(0.2, 2), "more often than"),
]


def test_the_honest_one_passes():
    """So what is found in the others is what was changed."""
    check_ranking(Honest(), 5)


@pytest.mark.parametrize(("broken", "match"), BROKEN, ids=lambda value: value if isinstance(value, str) else "")
def test_broken_policies_are_found(broken, match):
    """Each breaks one sentence of the protocol, and the message says which."""
    with pytest.raises(AssertionError, match=match):
        check_ranking(broken(), 5)


def test_a_wrong_formula_for_the_marginals_is_found():
    """Shift with the matrix of replace."""
    wrong = PoolInjection(0.3, 3, insert="shift")
    wrong.__dict__["_moves"] = dataclasses.replace(wrong, insert="replace")._moves
    with pytest.raises(AssertionError):
        check_ranking(wrong)
