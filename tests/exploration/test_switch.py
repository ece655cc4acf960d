"""The kill switch: a file, or a word to this process; effective within a second, and off where it cannot be seen."""

import threading
import time

import numpy as np
import pytest

import guardrails as gr
from guardrails.exploration import EpsilonGreedy
from guardrails.exploration.switch import STALE, Switch, switch_of, switches
from guardrails.serving.exploring import command_exploration


def until(condition, seconds=3.0):
    """How long it took until something held."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "it never did"
        time.sleep(0.01)
    return time.monotonic() - began


def test_a_file_stops_exploration_within_a_second_and_its_removal_starts_it(tmp_path):
    """Whoever makes the file: a person, a script, a config map."""
    seen, path = [], tmp_path / "off"

    @gr.explore(EpsilonGreedy(0.5), switch=str(path), decisions=seen.append)
    def rank(rows: np.ndarray) -> np.ndarray:
        return np.array([[0.1, 0.9]])

    def explores():
        seen.clear()
        rank(np.zeros((1, 2)))
        return seen[-1].eligible

    assert explores()
    path.touch()
    assert until(lambda: not explores()) < 1.0
    assert (seen[-1].ineligible, seen[-1].propensity, seen[-1].action) == ("switched_off", 1.0, 1)
    for _ in range(200):
        assert rank(np.zeros((1, 2))).argmax() == 1
    path.unlink()
    assert until(explores) < 1.0


def test_stop_and_start_write_the_file_that_others_watch(tmp_path):
    """At once here, within a second there."""
    here, there = Switch(tmp_path / "deep" / "off"), Switch(tmp_path / "deep" / "off")
    here.stop("too many complaints")
    assert here.off
    assert until(lambda: there.off) < 1.0
    assert "too many complaints" in (tmp_path / "deep" / "off").read_text()
    there.start()
    assert not there.off
    assert until(lambda: not here.off) < 1.0


def test_a_switch_that_cannot_be_seen_counts_as_off(tmp_path, monkeypatch):
    """No permission, a hanging volume: whoever cannot see the switch does not explore."""
    switch = Switch(tmp_path / "off")
    assert not switch.off

    def refused(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("guardrails.exploration.switch.os.stat", refused)
    assert until(lambda: switch.off) < 1.0
    monkeypatch.undo()
    assert until(lambda: not switch.off) < 1.0
    monkeypatch.setattr(Switch, "_look", lambda self: threading.Event().wait())  # a volume that hangs
    now = time.monotonic()
    monkeypatch.setattr("guardrails.exploration.switch.time.monotonic", lambda: now + STALE + 1)
    assert switch.off


def test_a_file_that_cannot_be_written_still_stops_this_process(tmp_path):
    """And says that it stops nobody else."""
    (tmp_path / "file").touch()
    switch = Switch(tmp_path / "file" / "off")
    with pytest.raises(OSError):
        switch.stop()
    time.sleep(0.6)
    assert switch.off
    (tmp_path / "file").unlink()
    switch.start()
    assert not switch.off


def test_outside_of_a_server_the_switch_is_of_this_process(monkeypatch):
    """No file, no thread."""
    monkeypatch.delenv("GUARDRAILS_EXPLORATION_SWITCH", raising=False)
    monkeypatch.delenv("PROMETHEUS_MULTIPROC_DIR", raising=False)
    before = threading.active_count()
    switch = switch_of()
    assert switch is switch_of()
    assert switch.path is None
    assert threading.active_count() == before
    switch.stop()
    assert switch.off
    switch.start()
    assert not switch.off


def test_a_variable_names_the_file(monkeypatch, tmp_path):
    """One switch per file and process."""
    monkeypatch.setenv("GUARDRAILS_EXPLORATION_SWITCH", str(tmp_path / "off"))
    assert switch_of().path == tmp_path / "off"
    assert switch_of() is switch_of(str(tmp_path / "off"))
    assert switch_of() in switches()


def test_the_endpoint_needs_a_token_and_a_command(monkeypatch, tmp_path):
    """Every refusal says what to send."""
    monkeypatch.setattr("guardrails.exploration.switch._switches", {})
    stop = b'{"action": "stop", "why": "complaints"}'
    assert command_exploration(stop, guarded=False)[0] == 403
    assert command_exploration(stop, guarded=True)[0] == 404, "nothing is explored"
    switch = switch_of(str(tmp_path / "off"))
    for body in (b"", None, b"[]", b"null", b"{}", b'{"action": "pause"}', b'{"action": "stop", "x": 1}', b"\xff"):
        status, said = command_exploration(body, guarded=True)
        assert status == 400, body
        assert '"action": "stop"' in said["error"]
    assert not switch.off
    status, said = command_exploration(stop, guarded=True)
    assert (status, said["status"]) == (200, "stopped")
    assert switch.off
    assert command_exploration(b'{"action": "start"}', guarded=True)[1]["status"] == "started"
    assert not switch.off
