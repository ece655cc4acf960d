"""A process that was forked off writes its own records, and not its parent's."""

import os
import sqlite3
import time

import pytest

from guardrails.decisions.records import Decision
from guardrails.decisions.writer import open_log


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_a_forked_process_has_a_thread_of_its_own(tmp_path):
    """What the parent had waiting is written once, by the parent; what the child takes, by the child."""
    url = f"sqlite:///{tmp_path}/d.db"
    log = open_log(url)
    log(Decision("parent", time.time(), "predict", "primary"))
    child = os.fork()
    if child == 0:  # pragma: no cover  # another process
        taken = log(Decision("child", time.time(), "predict", "primary"))
        log.close()
        os._exit(0 if taken and open_log(url) is not None else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log.close()
    with sqlite3.connect(tmp_path / "d.db") as database:
        assert sorted(row[0] for row in database.execute("select decision_id from decisions")) == ["child", "parent"]


def test_a_record_that_cannot_be_read_at_all_is_dropped_alone(tmp_path):
    """Whatever it raises while it is made ready."""

    class Bad(dict):
        def items(self):
            raise RuntimeError("changed while it was read")

    log = open_log(f"sqlite:///{tmp_path}/d.db")
    log(Decision("bad", 1.0, "predict", "primary", features=Bad(x=1)))
    log(Decision("good", 1.0, "predict", "primary", features={"x": 1}))
    assert log.flush()
    log.close()
    assert (log.written, log.dropped) == (1, 1)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/db?user=u&password=topsecret",
        "postgresql://u:topsecret@host:notaport/db",
        "POSTGRESQL://u:topsecret@host/db",
        "u:topsecret@host",
        "postgresql:/u:topsecret@host/db",
        "mysql://u:topsecret@host/db",
    ],
)
def test_no_password_is_ever_shown(url):
    """Neither as the store's name, nor in what is wrong with it."""
    from guardrails.decisions.stores.store import DecisionStore
    from guardrails.errors import DecisionStoreError

    try:
        said = DecisionStore(url).url
    except DecisionStoreError as error:
        said = str(error)
    assert "topsecret" not in said
