"""What `install` records, and where: the model's name, several sinks at once, retention."""

from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pytest

import guardrails as gr
from guardrails.decisions.stores.store import DecisionStore
from guardrails.decisions.writer import open_log
from guardrails.errors import DecorationError

SCORES = np.array([[0.1, 0.9]])


def service(**options: Any) -> Any:
    """An instance of a small installed service."""

    @gr.install(**options)
    @bentoml.service(name="recorded")
    class Recorded:
        """Answers two scores."""

        version = "first"

        @bentoml.api
        @gr.explore(gr.EpsilonGreedy(0.1))
        def rank(self, rows: np.ndarray) -> np.ndarray:
            """Scores."""
            return SCORES

    return Recorded.inner()


def test_an_attribute_names_the_model_and_may_change() -> None:
    """A service that retrains in place says which model answered."""
    seen: list[Any] = []
    served = service(decisions=seen.append, model="version")
    served.rank(np.zeros((1, 2)))
    served.version = "second"
    served.rank(np.zeros((1, 2)))
    assert [decision.model for decision in seen] == ["first", "second"]


def test_without_a_name_a_profile_or_a_stored_model_there_is_none() -> None:
    """Nothing is made up."""
    seen: list[Any] = []
    service(decisions=seen.append).rank(np.zeros((1, 2)))
    assert seen[0].model is None


def test_the_one_stored_model_is_recorded_by_its_full_tag(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """With its version, so that retrained ones can be told apart."""
    from services.songs.recommender import POLICY, playlists

    with bentoml.models.create("recorded-playlists") as model:
        np.savez(model.path_of("playlists.npz"), scores=np.random.default_rng(0).random((4, 20)))
    try:
        seen: list[Any] = []
        playlists(POLICY, seen.append, model="recorded-playlists").inner().playlist(np.zeros((1, 1)))
        assert seen[0].model == str(model.tag)
    finally:
        bentoml.models.delete(model.tag)


def test_several_sinks_get_every_record(tmp_path: Path) -> None:
    """A database and a function."""
    seen: list[Any] = []
    url = f"sqlite:///{tmp_path}/d.db"
    served = service(decisions=[url, seen.append])
    for _ in range(5):
        served.rank(np.zeros((1, 2)))
    assert open_log(url).flush()
    assert [row["decision_id"] for row in DecisionStore(url).read()] == [decision.decision_id for decision in seen]
    open_log(url).close()


def test_decisions_that_are_no_place_are_refused_with_what_would_be() -> None:
    """When the worker starts, at the latest."""
    with pytest.raises(DecorationError, match=r"sqlite:///"):
        service(decisions=5).rank(np.zeros((1, 2)))
