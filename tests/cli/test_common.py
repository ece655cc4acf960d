"""What the commands share: errors in one line, fit to be shown."""

import pytest
from click.testing import CliRunner

from guardrails.cli import main


def test_a_store_that_cannot_be_reached_is_named_without_its_password():
    """What a terminal shows ends up in logs."""
    pytest.importorskip("psycopg")
    told = CliRunner().invoke(main, ["replay", "postgresql://u:topsecret@127.0.0.1:9/d", "--alpha", "0.05"])
    assert told.exit_code == 1
    assert "127.0.0.1" in told.output
    assert "topsecret" not in told.output
