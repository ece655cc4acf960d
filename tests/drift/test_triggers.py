"""What an alarm sets off: it gets the alarm, and whatever it does, nothing else minds."""

import json
import logging
import sys
import threading
import time

import pytest
from prometheus_client import REGISTRY

from guardrails.drift import triggers
from guardrails.drift.alarm import Alarm, BinMove, Finding
from guardrails.drift.triggers import check, fire
from guardrails.errors import DecorationError

ALARM = Alarm(
    (
        Finding("größe, in m", 0.9, "is higher by about 0.5 standard deviations", (BinMove("03", "1 to 2", 0.1, 0.4),)),
        Finding("age", 0.1, "is more often missing, by about 10% of all rows", ()),
    ),
    evidence=3.5,
    rows=1200,
    since=400,
    id="abc123",
    at=1.5e9,
    examples=("d1", "d2"),
)


def errors():
    """How many triggers failed so far."""
    labels = {"guard": "sample_drift", "error_type": "on_alarm"}
    return REGISTRY.get_sample_value("guardrails_guard_errors_total", labels) or 0.0


def python(program):
    """A command."""
    return [sys.executable, "-c", program]


def run(trigger, alarm=ALARM):
    """Set it off and wait for it."""
    thread = fire(trigger, alarm)
    thread.join(60)
    assert not thread.is_alive()


def test_a_function_gets_the_alarm_itself():
    """In a thread of its own, which ends with the process."""
    got = []
    run(lambda alarm: got.append((alarm, threading.current_thread())))
    ((alarm, thread),) = got
    assert alarm is ALARM
    assert thread is not threading.current_thread()
    assert thread.daemon


def test_whoever_sets_it_off_does_not_wait_for_it():
    """However long it takes."""
    release, started = threading.Event(), threading.Event()

    def slow(_):
        started.set()
        release.wait(30)

    begun = time.perf_counter()
    thread = fire(slow, ALARM)
    assert time.perf_counter() - begun < 1.0
    assert started.wait(10)
    assert thread.is_alive()
    release.set()
    thread.join(10)


def test_a_command_gets_the_alarm_as_json_and_the_features_by_name(tmp_path):
    """On standard input and in the environment; the alarm can be made again from it."""
    out = tmp_path / "out.json"
    run(
        python(
            "import json, os, sys; document = json.load(sys.stdin);"
            f"json.dump([document, os.environ['GUARDRAILS_DRIFT_FEATURES']], open({str(out)!r}, 'w'))"
        )
    )
    document, features = json.loads(out.read_text())
    assert features == "größe, in m,age"
    assert document["features"] == ["größe, in m", "age"]
    assert document["sentence"] == ALARM.sentence()
    assert Alarm.from_json(document) == ALARM


def test_a_command_may_be_text_and_no_shell_reads_it(tmp_path):
    """Quotes hold words together; nothing is expanded, and no second command is run."""
    out, bait = tmp_path / "a file", tmp_path / "bait"
    program = "import sys; open(sys.argv[1], 'w').write(repr(sys.argv[2:]))"
    run(f'"{sys.executable}" -c "{program}" "{out}" $HOME ; touch {bait}')
    assert out.read_text() == repr(["$HOME", ";", "touch", str(bait)])
    assert not bait.exists()


def test_a_command_that_does_not_read_its_input_is_fine():
    """However large the alarm is."""
    before = errors()
    many = tuple(Finding(f"feature_{i}", 0.0, "is higher " + "x" * 200, ()) for i in range(2000))
    run(python("pass"), Alarm(many, 1.0, 1, 1))
    assert errors() == before


def leave(_):
    """End the process, as one might think."""
    raise SystemExit(3)


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnhandledThreadExceptionWarning"
)  # SystemExit is no error of a thread
@pytest.mark.parametrize(
    "trigger",
    [
        lambda alarm: 1 / 0,
        lambda: None,
        leave,
        ["/no/such/command"],
        "no-such-command-either --now",
        python("import sys; sys.exit('gone wrong')"),
        python("import os; os.kill(os.getpid(), 9)"),
        ["/tmp"],
        python("import sys; sys.stdin.close(); sys.stdout.buffer.write(b'\\xff\\xfe'); sys.exit(1)"),
    ],
    ids=["raises", "takes nothing", "SystemExit", "no file", "no command", "fails", "killed", "a folder", "no text"],
)
def test_a_trigger_that_fails_is_contained_and_said(trigger, caplog):
    """The log names the alarm and what it was to set off; the metric counts it."""
    before = errors()
    with caplog.at_level(logging.ERROR, logger="guardrails"):
        run(trigger)
    if trigger is not leave:
        assert errors() == before + 1
        assert "abc123" in caplog.text


def test_what_a_failing_command_said_is_in_the_log(caplog):
    """The end of its standard error, and its exit code."""
    with caplog.at_level(logging.ERROR, logger="guardrails"):
        run(python("import sys; sys.stderr.write('x' * 9999 + 'no such table'); sys.exit(7)"))
    assert "no such table" in caplog.text
    assert "ended with 7" in caplog.text
    assert "x" * 501 not in caplog.text


def test_a_command_that_hangs_is_ended(monkeypatch, caplog, tmp_path):
    """After five minutes (here: a quarter of a second)."""
    monkeypatch.setattr(triggers, "COMMAND_TIMEOUT", 0.25)
    begun = time.monotonic()
    with caplog.at_level(logging.ERROR, logger="guardrails"):
        run(python("import time; time.sleep(60)"))
    assert time.monotonic() - begun < 20
    assert "timed out" in caplog.text


@pytest.mark.parametrize(
    "trigger",
    [None, print, leave, "retrain", "retrain --now 'a b'", ["retrain", "--now"], ("retrain",)],
    ids=repr,
)
def test_what_can_set_something_off_is_accepted(trigger):
    """Functions, objects that can be called, commands."""
    check(trigger)


@pytest.mark.parametrize(
    "trigger", ["", "   ", [], (), "a 'b", ["retrain", 1], [None], 5, 0.5, True, b"retrain", {}, object()], ids=repr
)
def test_what_can_set_nothing_off_is_refused(trigger):
    """At decoration, with the two ways to write it."""
    with pytest.raises(DecorationError, match=r"on_alarm.*function.*command"):
        check(trigger)


def test_a_coroutine_function_is_run_or_refused():
    """Calling it does nothing: the alarm would set off nothing, and nobody would know."""
    got = []

    async def on_alarm(alarm):
        got.append(alarm)

    try:
        check(on_alarm)
    except DecorationError:
        return
    run(on_alarm)
    assert got == [ALARM]
