"""`guardrails drift ...`: a page from a service or a store, a verdict, and commands that say what became of them."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
from click.testing import CliRunner

import guardrails as gr
from guardrails.cli import drift as cli
from guardrails.cli.drift import drift
from guardrails.decisions.records import Decision
from guardrails.decisions.stores.store import DecisionStore

TOKEN = "s3cret"
RNG = np.random.default_rng(0)


def stream(profile="songs:1", **changes):
    """What a service says of one."""
    known = {"profile": profile, "digest": "d" + profile, "verdict": "no drift seen", "rows": 1234, "evidence": 0.5}
    known |= {"drifted": [], "alarms": [], "last_command": None, "features": [], "history": [], "consequence": None}
    return known | changes


ALARM = {"id": "a1", "at": 1.7e9, "sentence": "age is higher [now]", "findings": [], "examples": []}
DRIFTED = stream("books:1", verdict="drift", drifted=["age"], alarms=[ALARM, {**ALARM, "acknowledged": True}])


class Service:
    """A small service: answers what it is told to, and notes what it was asked."""

    def __init__(self, server, documents, token, status):
        self.url, self.documents = f"http://127.0.0.1:{server.server_port}", documents
        self.token, self.status, self.headers = token, status, {}
        self.asked, self.answer = [], "acknowledge done, 1 alarm acknowledged"
        self.body = None


@contextmanager
def serving(*documents, token=None, status=None, **headers):
    """A service on a free port of this host."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def _send(self, status, body):
            body = service.body if service.body is not None else json.dumps(body).encode()
            self.send_response(status)
            for name, value in service.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def _answer(self, command):
            shown = self.headers.get("Authorization")
            service.asked.append((self.command, self.path, shown, command))
            if service.token is not None and shown != f"Bearer {service.token}":
                return self._send(401, {"error": "This needs the header"})
            if service.status is not None or self.path != "/guardrails/drift":
                return self._send(service.status or 404, {"detail": "Not Found"})
            if command is None:
                return self._send(200, service.documents)
            if command.get("profile") not in (None, *(d["profile"] for d in service.documents)):
                return self._send(404, {"error": "No such profile is watched for drift here."})
            for document in service.documents:
                document["last_command"] = service.answer
            return self._send(202, {"status": "told"})

        def do_GET(self):
            self._answer(None)

        def do_POST(self):
            self._answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    service = Service(server, [dict(d) for d in documents], token, status)
    service.headers = {name.replace("_", "-"): value for name, value in headers.items()}
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Nobody waits long for what will not come, nor finds a token lying about."""
    monkeypatch.setattr(cli, "PATIENCE", 0.3)
    monkeypatch.delenv("GUARDRAILS_TOKEN", raising=False)


def run(*arguments, **options):
    """The command's result; its output in one line, however wide a terminal is."""
    done = CliRunner().invoke(drift, [str(argument) for argument in arguments], **options)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exc_info
    return done


def test_a_page_of_a_running_service(tmp_path):
    """One line per stream, and the name of the file."""
    page = tmp_path / "drift.html"
    with serving(stream(), DRIFTED) as service:
        done = run("report", "--url", service.url, "-o", page, "--title", "All of it")
    assert done.exit_code == 0
    assert done.output.splitlines() == [
        "songs:1: no drift seen (1,234 rows)",
        "books:1: drift in age (1,234 rows)",
        f"wrote {page}",
    ]
    assert "<h1>All of it</h1>" in page.read_text(encoding="utf-8")
    assert "age is higher [now]" in page.read_text(encoding="utf-8")


def test_the_file_has_a_name_of_its_own(tmp_path, monkeypatch):
    """drift-report.html, where one stands."""
    monkeypatch.chdir(tmp_path)
    with serving(stream()) as service:
        assert run("report", "--url", service.url).exit_code == 0
        assert (tmp_path / "drift-report.html").exists()
        assert "cannot be written" in run("report", "--url", service.url, "-o", "nowhere/page.html").output


@pytest.mark.parametrize("suffix", ["", "/", "/guardrails", "/guardrails/", "/guardrails/drift"])
def test_the_address_may_be_the_services_or_that_of_its_guardrails(suffix):
    """Also without a scheme."""
    with serving(stream()) as service:
        assert run("status", "--url", service.url + suffix).exit_code == 0
        assert run("status", "--url", service.url.removeprefix("http://") + suffix).exit_code == 0
        assert {path for _, path, _, _ in service.asked} == {"/guardrails/drift"}


def test_a_path_of_ones_own():
    """install(path=...) may have put it elsewhere."""
    with serving(stream()) as service:
        assert "there is no" in run("status", "--url", f"{service.url}/own").output
        assert service.asked[0][1] == "/own/drift"


def test_status_is_short():
    """A line per stream, and one per alarm that waits; brackets in names are no markup."""
    with serving(stream("songs[1]"), DRIFTED) as service:
        done = run("status", "--url", service.url, env={"COLUMNS": "200"})
        chosen = run("status", "--url", service.url, "--profile", "books:1", env={"COLUMNS": "200"})
    lines = [line.split() for line in done.output.splitlines()]
    assert lines[1] == ["songs[1]", "no", "drift", "seen", "1,234", "50%", "-", "0"]
    assert lines[2] == ["books:1", "drift", "1,234", "50%", "age", "1"]
    assert lines[3:] == [["alarm", "a1:", "age", "is", "higher", "[now]"]]
    assert "songs[1]" not in chosen.output


def test_by_one_look_is_said_in_short():
    """The long reason stands on the page."""
    said = "drift, by one look that holds once and not for ever: the reference is too small"
    assert cli.line(stream(verdict=said, drifted=["age"])) == "songs:1: drift, by one look in age (1,234 rows)"


def test_commands_say_what_became_of_them():
    """They are sent as the service reads them, and its word on them is shown."""
    with serving(stream(), DRIFTED) as service:
        done = run("acknowledge", "--url", service.url, "--profile", "books:1", "--alarm", "a1")
        assert done.output == "books:1: acknowledge done, 1 alarm acknowledged\n"
        service.answer = "reset done, 0 alarms acknowledged"
        assert run("reset", "--url", service.url, "--baseline", "recent").output.count("reset done") == 2
        assert run("reset", "--url", service.url).exit_code == 0
    assert [command for _, _, _, command in service.asked if command] == [
        {"action": "acknowledge", "profile": "books:1", "alarm": "a1"},
        {"action": "reset", "baseline": "recent"},
        {"action": "reset", "baseline": "profile"},
    ]


def test_a_refused_reset_is_a_failure():
    """It was told and not done: the exit code says so."""
    with serving(stream()) as service:
        service.answer = "reset refused: 12 rows since the last alarm are no reference, 500 are needed"
        done = run("reset", "--url", service.url, "--baseline", "recent")
    assert done.exit_code == 1
    assert "12 rows since the last alarm" in done.output


def test_a_command_nobody_carries_out_is_not_called_done():
    """No worker judged in time."""
    with serving(stream()) as service:
        service.answer = None
        assert "not carried out yet" in run("acknowledge", "--url", service.url).output


@pytest.mark.parametrize("command", ["report", "status", "acknowledge", "reset"])
def test_a_token_is_asked_for_and_shown(command, tmp_path):
    """By option or environment; the error says where it belongs, and never what it was."""
    options = ["-o", tmp_path / "page.html"] if command == "report" else []
    with serving(stream(), token=TOKEN) as service:
        arguments = [command, "--url", service.url, *options]
        none, wrong = run(*arguments), run(*arguments, "--token", "wrong-one")
        assert (none.exit_code, wrong.exit_code) == (1, 1)
        assert "asks for a token" in none.output
        assert "does not take this token" in wrong.output
        assert "wrong-one" not in wrong.output
        assert run(*arguments, "--token", TOKEN).exit_code == 0
        assert run(*arguments, env={"GUARDRAILS_TOKEN": TOKEN}).exit_code == 0


def test_a_token_goes_to_nobody_else():
    """A service that points elsewhere is not followed."""
    with serving(stream()) as other, serving(stream(), status=302, Location=f"{other.url}/guardrails/drift") as service:
        done = run("status", "--url", service.url, "--token", TOKEN)
    assert done.exit_code == 1
    assert f"somewhere else, at {other.url}" in done.output
    assert other.asked == []


def test_what_is_wrong_is_said():
    """Nobody there, no guardrails, no drift, no such profile, somebody else: each in a sentence, none with a trace."""
    with serving(stream()) as gone:
        pass
    assert "does not answer: Connection refused. Does the service run there?" in run("status", "--url", gone.url).output
    with serving(status=404) as service:
        assert "install(...) on a service makes it" in run("status", "--url", service.url).output
    with serving() as service:
        assert "watches no drift" in run("status", "--url", service.url).output
    with serving(stream(), DRIFTED) as service:
        done = run("status", "--url", service.url, "--profile", "films:1")
        assert "no stream of the profile films:1; it watches songs:1, books:1" in done.output
    with serving(stream(), status=503) as service:
        assert "answers 503" in run("status", "--url", service.url).output
    for body in (b"<html>", b'{"a": 1}', b"[1]", b'[{"profile": 1}]', b"\xff"):
        with serving(stream()) as service:
            service.body = body
            done = run("status", "--url", service.url)
            assert done.exit_code == 1
            assert "is it the right address?" in done.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["status"], "Give --url"),
        (["status", "--url", "ftp://host"], "no address of a service"),
        (["status", "--url", "http://host:port"], "does not answer"),
        (["report"], "Give --url of a service, or --decisions of a store"),
        (["report", "--url", "http://a", "--decisions", "sqlite:///b.db"], "Give --url of a service, or --decisions"),
        (["report", "--url", "http://a", "--since", "7d"], "go with --decisions"),
        (["report", "--decisions", "sqlite:///b.db", "--since", "soon"], "is no time span"),
        (["report", "--decisions", "sqlite:///b.db", "--run-length", "soon"], "run_length='soon' is no time span"),
        (["reset", "--url", "http://a", "--baseline", "other"], "'other' is not one of"),
    ],
)
def test_options_that_make_no_sense(arguments, told, tmp_path, monkeypatch):
    """Are named, before anything is asked."""
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert done.exit_code != 0
    assert told in done.output


def test_a_detector_may_be_named_without_the_word_test():
    """`guardrails drift --detector NAME URL` is `guardrails drift test ...`; other words are left alone."""
    for arguments in (["--detector", "KSDrift", "sqlite:///n.db"], ["sqlite:///n.db", "--detector=KSDrift"]):
        assert run(*arguments).output == run("test", *arguments).output
        assert "no decisions" in run(*arguments).output
    assert "No such command 'tset'" in run("tset").output
    assert {"report", "status", "acknowledge", "reset", "test"} == set(drift.commands)


# From stored decisions


@pytest.fixture(scope="module")
def profile(tmp_path_factory):
    """One that is saved, in a model store of its own."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml._internal.models import ModelStore

    BentoMLContainer.model_store.set(ModelStore(str(tmp_path_factory.mktemp("models"))))
    fitted = gr.Profile.fit(RNG.normal(size=(2000, 2)), feature_names=["age", "dose"])
    yield gr.Profile.load(fitted.save("watched"))
    BentoMLContainer.model_store.reset()


@pytest.fixture(scope="module")
def store(profile, tmp_path_factory):
    """Calm, then a column moves; another method is calm throughout."""
    import time

    rows = RNG.normal(size=(900, 2)) + np.outer(np.arange(900) >= 600, [0.0, 1.5])
    opened = DecisionStore(f"sqlite:///{tmp_path_factory.mktemp('store') / 'decisions.db'}")
    opened.create()
    now = time.time()
    shared = {"route": "primary", "profile": profile.tag}
    kept = [
        Decision(f"{at:032x}", now - 60.0 * (900 - at), "predict", features=row, **shared)
        for at, row in enumerate(rows)
    ]
    kept += [
        Decision(f"{at + 5000:032x}", now - 90.0 - 60.0 * (900 - at), "other", features=row, **shared)
        for at, row in enumerate(RNG.normal(size=(300, 2)))
    ]
    kept.append(Decision("f" * 32, now - 1e6, "predict", **shared))
    opened.write("decision", [decision.row() for decision in kept])
    yield f"sqlite:///{opened.engine.url.database}"
    opened.close()


def test_a_page_of_stored_decisions(store, profile, tmp_path):
    """The stream a service would have seen, with what could not be read on the side."""
    page = tmp_path / "drift.html"
    done = run("report", "--decisions", store, "--profile", profile.tag, "--api", "predict", "-o", page)
    assert done.exit_code == 0
    assert f"{profile.tag}: drift in dose" in done.output  # and, it may be, in what followed from that
    assert "(900 rows)" in done.output
    assert "1 decisions hold no row" in done.output
    content = page.read_text(encoding="utf-8")
    assert "rebuilt from stored decisions" in content
    assert content.count("<code>000000000000000000000000000") >= 8


def test_since_api_and_run_length_choose(store, tmp_path):
    """Which decisions, and how sure an alarm has to be; the profile is by default that of the newest."""
    base = ["report", "--decisions", store, "-o", tmp_path / "drift.html"]
    assert "no drift seen (300 rows)" in run(*base, "--api", "other").output
    assert "(90 rows)" in run(*base, "--api", "predict", "--since", "90.5m").output
    assert run(*base, "--api", "predict", "--run-length", "1h").exit_code == 0
    assert "in 2 hours" in (run(*base, "--run-length", "2h"), (tmp_path / "drift.html").read_text())[1]


def test_a_store_that_does_not_do(store, tmp_path):
    """No store, no profile, no rows."""
    page = tmp_path / "drift.html"
    assert "no decisions" in run("report", "--decisions", f"sqlite:///{tmp_path}/none.db", "-o", page).output
    assert "no profile 'gone:1'" in run("report", "--decisions", store, "--profile", "gone:1", "-o", page).output
    done = run("report", "--decisions", store, "--api", "nobody", "-o", page)
    assert "Name a --profile" in done.output
    assert not page.exists()
