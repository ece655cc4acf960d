"""RECORD in a pipeline: one decision per answered row, whatever its route."""

import hashlib
import sqlite3

import numpy as np
import pytest

import guardrails as gr
from guardrails.decisions import writer
from guardrails.errors import Rejected

DETECTOR = gr.outliers.fit(np.random.default_rng(0).normal(size=(400, 2)), alpha=0.01)


def ranked(seen, **options):
    """A guarded ranking whose outliers go to a constant."""

    @gr.check_outliers(DETECTOR, fallback=options.pop("fallback", gr.constant([[0.0, 1.0]])))
    @gr.explore(gr.EpsilonGreedy(0.0), decisions=seen.append, **options)
    def rank(rows: np.ndarray) -> list:
        if rows[0, 0] == 0.5:
            raise RuntimeError("sick")
        return [[1.0, 0.0] for _ in rows]

    return rank


def test_every_row_of_a_mixed_request_has_its_own_record():
    """Its id, its route, its score."""
    seen = []
    ranked(seen)(np.array([[0.0, 0.0], [99.0, 99.0], [0.1, 0.0]]))
    assert [d.route for d in seen] == ["primary", "fallback:constant", "primary"]
    assert [d.reason for d in seen] == [None, "outlier", None]
    request = seen[0].decision_id.split("/")[0]
    assert [d.decision_id for d in seen] == [f"{request}/{row}" for row in range(3)]
    assert seen[1].outlier_p_value == pytest.approx(1 / 121)
    assert seen[0].outlier_p_value > 0.01
    assert len({d.ts for d in seen}) == 1
    assert all(d.duration > 0 and d.api == "rank" for d in seen)


def test_a_rejected_request_is_recorded():
    """Under the id that the client got."""
    seen = []
    rank = ranked(seen, fallback=gr.reject())
    with pytest.raises(Rejected) as caught:
        rank(np.array([[99.0, 99.0]]))
    assert [(d.route, d.reason, d.decision_id) for d in seen] == [("rejected", "outlier", caught.value.decision_id)]


def test_a_failed_request_is_recorded():
    """With the kind of its error, and propensity one."""
    seen = []
    with pytest.raises(RuntimeError):
        ranked(seen)(np.array([[0.5, 0.0]]))
    assert [(d.reason, d.error_type, d.propensity) for d in seen] == [("error", "RuntimeError", 1.0)]


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ("none", None),
        ("store", [0.25, -1.0]),
        ("hash", hashlib.blake2b(np.array([0.25, -1.0]).tobytes(), digest_size=16).hexdigest()),
    ],
)
def test_features_are_kept_only_where_asked(features, expected):
    """Stored, hashed, or not at all."""
    seen = []
    ranked(seen, features=features)(np.array([[0.25, -1.0]]))
    kept = seen[0].features
    assert (kept.tolist() if isinstance(kept, np.ndarray) else kept) == expected


def test_features_are_kept_where_explore_stands_alone():
    """features="store" holds also where no other guard has read the rows."""
    seen = []

    @gr.explore(gr.EpsilonGreedy(0.0), decisions=seen.append, features="store")
    def rank(rows: np.ndarray) -> list:
        return [[1.0, 0.0]]

    rank(np.array([[0.25, -1.0]]))
    assert seen[0].features is not None
    np.testing.assert_array_equal(np.asarray(seen[0].features).ravel(), [0.25, -1.0])


def test_a_url_opens_a_log(tmp_path):
    """From decorator to file."""
    url = f"sqlite:///{tmp_path}/d.db"

    @gr.explore(gr.EpsilonGreedy(0.0), decisions=url)
    def rank(rows: np.ndarray) -> list:
        return [0.0, 1.0]

    for _ in range(3):
        rank(np.zeros((1, 2)))
    log = writer.open_log(url)
    assert log.flush()
    log.close()
    connection = sqlite3.connect(tmp_path / "d.db")
    assert connection.execute("SELECT route, action, propensity FROM decisions").fetchall() == [("primary", 1, 1.0)] * 3
    connection.close()


def test_a_sink_that_raises_does_not_reach_the_caller():
    """Whatever a user's own sink does."""

    def sink(record):
        raise OSError("full")

    @gr.explore(gr.EpsilonGreedy(0.0), decisions=sink)
    def rank(rows: np.ndarray) -> list:
        return [0.0, 1.0]

    assert rank(np.zeros((1, 2))) == [0.0, 1.0]
