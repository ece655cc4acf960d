"""The playlists: what is logged is what was shown, retrains learn from it, and the loop runs from end to end."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from guardrails.decisions.stores.store import DecisionStore
from guardrails.exploration import PoolInjection, policy_of
from services.songs import loop, retrain
from services.songs.audience import Audience, examination
from services.songs.learners import LEARNERS, Sums
from services.songs.loop_page import render
from services.songs.recommender import EXPERIMENT, playlists

SIZE = loop.Size(songs=20, slots=3, rounds=2, listeners=120, call=50)


@pytest.fixture(autouse=True)
def the_same_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids and the secret come from a seed, so that every run of a test draws the same lists."""
    monkeypatch.delenv("GUARDRAILS_EXPLORATION_KEY", raising=False)
    monkeypatch.setattr(os, "urandom", np.random.default_rng(0).bytes)


@pytest.fixture(autouse=True)
def models(tmp_path: Path) -> Iterator[None]:
    """A model store of each test's own."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    (tmp_path / "models").mkdir()
    BentoMLContainer.model_store.set(ModelStore(str(tmp_path / "models")))
    yield
    BentoMLContainer.model_store.reset()


@pytest.fixture
def audience() -> Audience:
    """A small one."""
    return Audience.make(3, songs=SIZE.songs, slots=SIZE.slots)


def served(audience: Audience, folder: Path, learner: str = retrain.NAIVE, n: int = 300) -> tuple:
    """A round of a service that explores half of its lists: what was shown, what was clicked, and the log of it."""
    url = f"sqlite:///{folder / 'songs.db'}"
    model = retrain.first(audience, learner, 200, seed=0)
    model.save("songs-test")
    service = playlists(PoolInjection(0.5, slots=SIZE.slots, boost=EXPERIMENT), url, "songs-test").inner()
    who, since = np.arange(n) % len(audience.chances), time.time()
    shown, clicks = loop.serve(service, audience, who, url, 64, np.random.default_rng(0))
    return model, who, shown, clicks, loop.logged(url, since, time.time())


def test_what_is_logged_is_what_was_shown(audience, tmp_path) -> None:
    """Every list, in order, with its listener, its clicks by position, and the policy that drew it."""
    model, who, shown, clicks, logged = served(audience, tmp_path)
    assert len(logged) == len(who)
    assert logged.kind == "ranking"
    assert str(logged.counts).startswith(f"{len(who)} decisions joined")
    by_call = np.lexsort((np.array([int(one.rpartition("/")[2]) for one in logged.decision_id]), logged.ts))
    logged = logged.select(by_call)
    assert np.array_equal(np.array(logged.served), shown)
    assert np.array_equal(retrain.segments_of(logged), who)
    assert np.array_equal(np.array(logged.scores), model.scores[who])
    assert sum(slots.sum() for slots in logged.slot_reward) == clicks == logged.reward.sum()
    assert policy_of(logged.policy[0]) == PoolInjection(0.5, slots=SIZE.slots, boost=EXPERIMENT)
    assert 0.35 < logged.differs.mean() < 0.65


def test_exposure_is_what_the_policy_says(audience, tmp_path) -> None:
    """The marginals in the log, looked at by position, are those of the policy for the logged scores."""
    *_, logged = served(audience, tmp_path)
    policy, look = policy_of(logged.policy[0]), examination(SIZE.slots)
    for at in range(0, len(logged), 17):
        whole = look @ policy.pmf(logged.scores[at])
        assert logged.pmf[at] @ look == pytest.approx(whole[logged.served[at]])


def test_counting_adds_clicks_up(audience, tmp_path) -> None:
    """Without weights the next model is the last one plus what was clicked, song by song and segment."""
    before, who, shown, clicks, logged = served(audience, tmp_path)
    after = retrain.retrain(before, logged, retrain.NAIVE, 1.0)
    assert (after.scores - before.scores).sum() == clicks
    assert (before.sums.clicks == before.scores).all()  # the model before is as it was
    never = np.ones(before.scores.shape, bool)
    never[who[:, None], shown] = False
    assert (after.scores[never] == before.scores[never]).all()


def test_weights_are_right_on_average(audience, tmp_path) -> None:
    """Clicks over their exposure, per listener, estimate what each segment likes of each song, without bias."""
    *_, logged = served(audience, tmp_path, retrain.WEIGHTED, n=12_000)
    empty = retrain.Model(np.zeros(audience.chances.shape), Sums.empty(*audience.chances.shape))
    sums = retrain.retrain(empty, logged, retrain.WEIGHTED, 1.0).sums
    estimate = sums.weighted_clicks / sums.listeners
    # The variance of each estimate is at most E[click / exposure^2] / n.
    policy, look = policy_of(logged.policy[0]), examination(SIZE.slots)
    by_segment = {int(row[0]): scores for row, scores in zip(logged.features, logged.scores, strict=True)}
    exposure = look @ policy.pmf(np.stack([by_segment[segment] for segment in range(4)]))
    z = (estimate - audience.chances) / np.sqrt(audience.chances / exposure / sums.listeners)
    assert np.abs(z).max() < 4.5
    assert abs(z.mean()) < 4 / np.sqrt(z.size)


def test_a_model_carries_what_it_was_trained_on(audience, tmp_path) -> None:
    """Saved and loaded it is the same; two retrains on halves of a log are one on all of it."""
    before, *_, logged = served(audience, tmp_path, retrain.WEIGHTED)
    loaded = retrain.Model.load(before.save("songs-test"))
    assert all((getattr(loaded.sums, name) == getattr(before.sums, name)).all() for name in vars(before.sums))
    half = np.arange(len(logged)) < 150
    twice = before
    for part in (half, ~half):
        twice = retrain.retrain(twice, logged.select(part), retrain.WEIGHTED, 1.0)
    assert twice.scores == pytest.approx(retrain.retrain(loaded, logged, retrain.WEIGHTED, 1.0).scores)


def test_lists_without_a_click_count(audience, tmp_path) -> None:
    """A round in which nobody clicks is a round of listeners, and lowers what is thought of every song."""
    before, *_, logged = served(audience, tmp_path, retrain.WEIGHTED)
    once = retrain.retrain(before, logged, retrain.WEIGHTED, 1.0)
    after = retrain.retrain(once, replace(logged, slot_reward=None), retrain.WEIGHTED, 1.0)
    assert (after.sums.listeners == 2 * once.sums.listeners).all()
    assert (after.scores < once.scores).all()


def test_only_what_had_its_hour_is_learned_from(audience, tmp_path) -> None:
    """A list whose clicks may still come is not in the join; an hour later it is."""
    served(audience, tmp_path)
    store, now = DecisionStore(f"sqlite:///{tmp_path / 'songs.db'}"), time.time()
    assert len(retrain.read(store, 0.0, now, now)) == 0
    assert len(retrain.read(store, 0.0, now, now + retrain.WINDOW)) == 300
    store.close()


def test_what_was_not_drawn_has_no_weight(audience, tmp_path) -> None:
    """A decision that exploration was not allowed to act on says nothing about other songs, and is left out."""
    before, *_, logged = served(audience, tmp_path)
    logged.eligible[:] = False
    assert (retrain.retrain(before, logged, retrain.NAIVE, 1.0).scores == before.scores).all()


def test_the_loop_runs_from_end_to_end(tmp_path) -> None:
    """All arms at a tiny size: the same listeners, every list recorded, a page that needs nothing else."""
    tracks = [loop.run(arm, SIZE, tmp_path) for arm in loop.ARMS]
    for track in tracks:
        assert track.report.decisions == 3 * SIZE.listeners
        assert len(track.rounds.value) == SIZE.rounds + 1
        assert all(0 < value <= 1 for value in track.rounds.value)
        assert (track.report.differs > 0) == track.arm.explores
    assert len({track.rounds.value[0] for track in tracks}) == 1  # they begin with the same lists
    neither, explored, weighs, _ = tracks
    assert "no item was boosted" in neither.report.no_gain
    assert "no item was boosted" in weighs.report.no_gain
    assert explored.report.shown.coverage > neither.report.shown.coverage
    page = render(tracks, SIZE)
    assert "<script" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<polyline") == 2 * len(tracks)
    assert all(track.arm.name in page for track in tracks)


def test_every_learner_finds_what_is_liked_where_all_is_shown() -> None:
    """With lists drawn uniformly and their exposure known, all but counting agree with the truth; none is NaN."""
    audience, rng = Audience.make(5, songs=20, slots=3), np.random.default_rng(1)
    who = rng.integers(0, 4, 20_000)
    lists = rng.random((len(who), 20)).argsort(axis=1)[:, :3]
    exposure = np.full((4, 20), audience.examination.sum() / 20)
    sums = Sums.empty(4, 20)
    sums.add(
        who, lists, audience.clicks(who, lists, rng), exposure[who[:, None], lists], audience.examination, exposure
    )
    for name, learn in LEARNERS.items():
        scores = learn(sums)
        assert np.isfinite(scores).all()
        assert np.corrcoef(scores.ravel(), audience.chances.ravel())[0, 1] > 0.95, name
        if name != "count":
            assert scores == pytest.approx(audience.chances, abs=0.12), name
