"""``guardrails drift ...``: look at the drift of a running service, or of stored decisions, and answer its alarms."""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

import click

from guardrails.cli.common import Age, decisions, load_profile
from guardrails.cli.drift_test import drift_test

TIMEOUT = 10.0
"""Seconds a service may take to answer."""
PATIENCE = 3.0
"""Seconds to wait for a command to be carried out."""
LONGEST = 64 << 20
PATH = "/guardrails"

_url = click.option("--url", help="The service: http://host:3000, or where its guardrails are, if not at /guardrails.")
_token = click.option("--token", envvar="GUARDRAILS_TOKEN", help="What install(token=...) asks for; $GUARDRAILS_TOKEN.")
_profile = click.option("--profile", "tag", help="Only the stream of this profile (a tag or a digest).")


class DriftGroup(click.Group):
    """Takes ``guardrails drift --detector NAME URL`` for ``guardrails drift test --detector NAME URL``."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Put the word in, where it is meant."""
        named = any(arg == "--detector" or arg.startswith("--detector=") for arg in args)
        if named and args[0] not in self.commands:
            args = ["test", *args]
        return super().parse_args(ctx, args)


@click.group(cls=DriftGroup)
def drift() -> None:
    """Look at drift, and answer its alarms."""


drift.add_command(drift_test)


@drift.command()
@_url
@_token
@click.option("--decisions", "store", help="Instead of a service: stored decisions, e.g. sqlite:///decisions.db.")
@click.option("--profile", "tag", help="With --url: only this stream. With --decisions: what to compare them with.")
@click.option("--since", type=Age(), help="With --decisions: only those of the last, e.g. 36h or 7d.")
@click.option("--api", help="With --decisions: only those of this method.")
@click.option("--run-length", help="With --decisions: wanted time between two false alarms; 30d by default.")
@click.option("--title", help="Stands above the page.")
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), default="drift-report.html")
def report(
    url: str | None,
    token: str | None,
    store: str | None,
    tag: str | None,
    since: float | None,
    api: str | None,
    run_length: str | None,
    title: str | None,
    output: Path,
) -> None:
    """Write all that is known of drift as one HTML page, to read, to send or to print.

    From a running service (--url), or from the rows that decisions were stored with (--decisions), which are then
    watched anew, in the order of time. Without --profile these are compared with the profile that judged the newest.
    """
    from guardrails.drift.page import render

    if (url is None) == (store is None):
        raise click.UsageError("Give --url of a service, or --decisions of a store.")
    if url is not None:
        if since is not None or api is not None or run_length is not None:
            raise click.UsageError("--since, --api and --run-length go with --decisions: a service says what it says.")
        documents = Endpoint(url, token).documents(tag)
    else:
        documents = [_replayed(str(store), tag, since, api, run_length or "30d")]
    try:
        output.write_text(render(documents, title=title), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror}.") from error
    for document in documents:
        click.echo(line(document))
    click.echo(f"wrote {output}")


@drift.command()
@_url
@_token
@_profile
def status(url: str | None, token: str | None, tag: str | None) -> None:
    """Say in short how a running service's streams stand."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    documents = Endpoint(url, token).documents(tag)
    table = Table("profile", "verdict", "rows", "evidence", "moved", "alarms", box=None)
    for document in documents:
        table.add_row(
            escape(str(document["profile"])),
            escape(_verdict(document)),
            f"{document.get('rows', 0):,}",
            f"{document.get('evidence') or 0.0:.0%}",
            escape(", ".join(document.get("drifted") or []) or "-"),
            str(len(_waiting(document))),
        )
    console = Console()
    console.print(table)
    for document in documents:
        for alarm in _waiting(document):
            console.print(f"alarm {alarm.get('id')}: {alarm.get('sentence')}", markup=False, highlight=False)


@drift.command()
@_url
@_token
@_profile
@click.option("--alarm", help="Its id; all by default.")
def acknowledge(url: str | None, token: str | None, tag: str | None, alarm: str | None) -> None:
    """Say that an alarm is known: it stays on record, and its columns no longer count as drifted."""
    Endpoint(url, token).tell(tag, {"action": "acknowledge", "profile": tag, "alarm": alarm})


@drift.command()
@_url
@_token
@_profile
@click.option(
    "--baseline",
    type=click.Choice(["profile", "recent"]),
    default="profile",
    show_default=True,
    help="What to compare with from now on: training, or the rows since the last alarm.",
)
def reset(url: str | None, token: str | None, tag: str | None, baseline: str) -> None:
    """Count anew, with no evidence; all alarms are then acknowledged."""
    Endpoint(url, token).tell(tag, {"action": "reset", "profile": tag, "baseline": baseline})


def line(document: dict[str, Any]) -> str:
    """A stream in one line."""
    drifted = document.get("drifted") or []
    moved = f" in {', '.join(drifted[:5])}{' ...' if len(drifted) > 5 else ''}" if drifted else ""
    return f"{document['profile']}: {_verdict(document)}{moved} ({document.get('rows', 0):,} rows)"


def _verdict(document: dict[str, Any]) -> str:
    """In short; the page has the reasons."""
    said, by_one_look, _ = str(document["verdict"]).partition(", by one look")
    return said + by_one_look


def _waiting(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [alarm for alarm in document.get("alarms") or [] if not alarm.get("acknowledged")]


def _replayed(store: str, tag: str | None, since: float | None, api: str | None, run_length: str) -> dict[str, Any]:
    """The stream that a service would have seen."""
    from guardrails.drift.options import DriftOptions, seconds
    from guardrails.errors import GuardrailsError
    from guardrails.evaluation.replayed_drift import replay_drift

    try:
        options = DriftOptions(seconds(run_length, "run_length"))
        records = decisions(store, since, api)
        tag = tag or (str(records[-1]["profile"]) if records and records[-1]["profile"] else None)
        if tag is None:
            raise click.UsageError("What are they to be compared with? Name a --profile.")
        done = replay_drift(records, load_profile(tag), options)
    except GuardrailsError as error:
        raise click.ClickException(str(error)) from error
    for reason, count in done.skipped.items():
        click.echo(f"{count} decisions {reason}", err=True)
    return done.document()


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """The token is for the host that was named, and for no other one."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Take it for what it is: not the answer."""


class Endpoint:
    """The ``/guardrails/drift`` of a running service.

    Args:
        url: the service's, or that of its guardrails.
        token: what to show it.
    """

    def __init__(self, url: str | None, token: str | None) -> None:
        if not url:
            raise click.UsageError("Which service? Give --url http://host:3000.")
        parsed = urllib.parse.urlsplit(url if "://" in url else f"http://{url}")
        if parsed.scheme not in ("http", "https") or not parsed.netloc:
            raise click.UsageError(f"--url {url} is no address of a service; write e.g. http://host:3000.")
        path = parsed.path.rstrip("/").removesuffix("/drift") or PATH
        self._url = urllib.parse.urlunsplit((parsed.scheme, parsed.netloc, f"{path}/drift", "", ""))
        self._token = token

    def documents(self, tag: str | None = None) -> list[dict[str, Any]]:
        """All watched streams, or those of one profile."""
        found = self._ask()
        if not isinstance(found, list) or not all(
            isinstance(entry, dict) and entry.keys() >= _DOCUMENT for entry in found
        ):
            raise click.ClickException(f"{self._url} answers, but not as guardrails do: is it the right address?")
        if not found:
            raise click.ClickException(
                f"{self._url}: this service watches no drift (or no request has come to this worker yet): put "
                "@sample_drift(profile) on a method."
            )
        chosen = [entry for entry in found if tag in (None, entry["profile"], entry.get("digest"))]
        if not chosen:
            known = ", ".join(str(entry["profile"]) for entry in found)
            raise click.ClickException(f"{self._url} watches no stream of the profile {tag}; it watches {known}.")
        return chosen

    def tell(self, tag: str | None, command: dict[str, Any]) -> None:
        """Give a command, and say what became of it."""
        before = self._answers(tag)
        self._ask({name: value for name, value in command.items() if value is not None})
        deadline = time.monotonic() + PATIENCE
        while (answers := self._answers(tag)) == before and time.monotonic() < deadline:
            time.sleep(0.2)
        for profile, answer in answers.items():
            click.echo(f"{profile}: {answer or 'told, and not carried out yet; see guardrails drift status'}")
        if any(str(answer).startswith(_REFUSED) for answer in answers.values()):
            raise click.exceptions.Exit(1)

    def _answers(self, tag: str | None) -> dict[str, str | None]:
        """What became of the last command, of each stream."""
        return {str(entry["profile"]): entry.get("last_command") for entry in self.documents(tag)}

    def _ask(self, command: dict[str, Any] | None = None) -> Any:
        body = None if command is None else json.dumps(command).encode()
        headers = {"Accept": "application/json"} | ({} if body is None else {"Content-Type": "application/json"})
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        request = urllib.request.Request(self._url, body, headers)  # noqa: S310  # http or https, as was looked at
        try:
            with urllib.request.build_opener(_NoRedirect).open(request, timeout=TIMEOUT) as response:
                content = response.read(LONGEST)
        except urllib.error.HTTPError as error:
            raise click.ClickException(self._refusal(error)) from error
        except (OSError, ValueError, http.client.HTTPException) as error:
            cause = getattr(error, "reason", error)
            reason = getattr(cause, "strerror", None) or cause
            raise click.ClickException(f"{self._url} does not answer: {reason}. Does the service run there?") from error
        try:
            return json.loads(content)
        except ValueError as error:
            raise click.ClickException(f"{self._url} does not answer with JSON: is it the right address?") from error

    def _refusal(self, error: urllib.error.HTTPError) -> str:
        """What a status means here."""
        if error.code == 401:
            shown = "does not take this token" if self._token else "asks for a token"
            return f"{self._url} {shown}: give the one of install(token=...) as --token or in $GUARDRAILS_TOKEN."
        if error.code == 404:
            said = _said(error)
            return (
                said or f"there is no {self._url}: install(...) on a service makes it; give its path if it has another."
            )
        if 300 <= error.code < 400:
            return (
                f"{self._url} is somewhere else, at {error.headers.get('Location', 'no address')}: give that address."
            )
        return f"{self._url} answers {error.code}: {_said(error) or error.reason}"


_DOCUMENT = {"profile", "verdict"}
_REFUSED = ("reset refused", "a command could not")


def _said(error: urllib.error.HTTPError) -> str:
    """The sentence in an answer of guardrails; nothing where it is somebody else's."""
    try:
        found = json.loads(error.read(1 << 16))
    except (OSError, ValueError):
        return ""
    said = found.get("error") if isinstance(found, dict) else None
    return said if isinstance(said, str) else ""
