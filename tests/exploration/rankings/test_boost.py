"""The hash that chooses whom to show more often."""

import subprocess
import sys
from uuid import UUID

import numpy as np
import pytest
from scipy.stats import binomtest, chi2_contingency

from guardrails.errors import DecorationError
from guardrails.exploration.rankings import Boost

IDS = [f"song-{number}" for number in range(20_000)]


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_share_is_kept(share):
    """Of many items, about that many are boosted."""
    assert binomtest(int(Boost(share=share).boosted(IDS).sum()), len(IDS), share).pvalue > 1e-4


def test_another_salt_is_another_experiment():
    """Independent choices; the same salt, the same choice."""
    one, two = Boost(salt="one").boosted(IDS), Boost(salt="two").boosted(IDS)
    table = [[np.sum(one & two), np.sum(one & ~two)], [np.sum(~one & two), np.sum(~one & ~two)]]
    assert chi2_contingency(table).pvalue > 1e-4
    np.testing.assert_array_equal(one, Boost(salt="one").boosted(IDS))


def test_salt_and_id_are_not_run_together():
    """("ab", "c") and ("a", "bc") are decided apart."""
    left = [Boost(salt=f"s{number}x").boosted(["yz"])[0] for number in range(200)]
    right = [Boost(salt=f"s{number}").boosted(["xyz"])[0] for number in range(200)]
    assert left != right


def test_every_process_chooses_the_same():
    """Whatever Python's own hash seed."""
    code = "from guardrails.exploration.rankings import Boost; print(Boost().boosted([f'i{n}' for n in range(64)]).tolist())"
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "5"}
    )
    assert run.stdout.strip() == str(Boost().boosted([f"i{number}" for number in range(64)]).tolist())


def test_an_id_is_the_same_in_text_and_number():
    """7, "7" and NumPy's 7 are one item, wherever they are asked for; a larger share only adds items."""
    numbers = list(range(300))
    expected = Boost().boosted(numbers)
    np.testing.assert_array_equal(Boost().boosted([str(number) for number in numbers]), expected)
    np.testing.assert_array_equal(Boost().boosted(np.array(numbers)), expected)
    np.testing.assert_array_equal(Boost().boosted([np.int32(number) for number in numbers]), expected)
    assert (Boost(share=0.7).boosted(numbers) >= expected).all()


def test_ids_may_be_anything_that_is_the_same_everywhere():
    """Bytes, UUIDs, any text; not what has an address or a rounding in it."""
    assert Boost().boosted([b"x", UUID(int=3), "\ud800", "", "\N{SNOWMAN}"]).shape == (5,)
    assert Boost().boosted([]).shape == (0,)
    Boost().boosted([7])
    for item in (object(), 7.0, 1.5, None, ("a",)):  # 7.0 equals 7 and is written otherwise
        with pytest.raises(ValueError, match="an id is"):
            Boost().boosted([item])


@pytest.mark.parametrize(
    "options",
    [
        {"factor": 0},
        {"factor": -1},
        {"factor": np.nan},
        {"factor": 1e7},
        {"share": 0},
        {"share": 1},
        {"share": np.nan},
        {"salt": 3},
    ],
    ids=str,
)
def test_impossible_options_are_refused(options):
    """At construction, naming the option."""
    with pytest.raises(DecorationError, match=f"Boost.{next(iter(options))}="):
        Boost(**options)
