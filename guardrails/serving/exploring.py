"""``/guardrails/exploration``: is anything explored now; and the kill switch, for whoever has the token."""

from __future__ import annotations

import json
from typing import Any

from guardrails.exploration.switch import switches

_COMMANDS = 'Send {"action": "stop"} or {"action": "start"}, with "why" if you like.'
_LONGEST = 500


def exploration_status() -> list[dict[str, Any]]:
    """The switches of this worker's explored methods, which are those of all workers."""
    return [switch.status() for switch in switches()]


def command_exploration(body: bytes | None, *, guarded: bool) -> tuple[int, dict[str, Any]]:
    """Stop or start exploring: here at once, in the other workers within a second.

    Args:
        body: what was sent; None if it was too long.
        guarded: whether a token was asked for. Without one anybody could start what somebody has stopped.

    Returns:
        A status code and what to say with it.
    """
    if not guarded:
        return 403, {"error": "The switch needs install(token=...): without one anybody could turn exploration on."}
    try:
        given = json.loads(body or b"")
        action, why = given.pop("action", None), given.pop("why", "")
    except (ValueError, AttributeError, TypeError, RecursionError):
        return 400, {"error": f"The body is a JSON object. {_COMMANDS}"}
    if action not in ("stop", "start") or given or not isinstance(why, str) or len(why) > _LONGEST:
        return 400, {"error": _COMMANDS}
    known = switches()
    if not known:
        return 404, {"error": "Nothing is explored here."}
    failed: list[str] = []
    for switch in known:  # all of them, whatever becomes of one
        try:
            if action == "stop":
                switch.stop(why)
            else:
                switch.start()
        except OSError as error:
            failed.append(str(error))
    if failed:
        done = "written" if action == "stop" else "removed"
        return 503, {
            "error": f"A switch's file cannot be {done}: {'; '.join(failed)}.",
            "switches": exploration_status(),
        }
    return 200, {"status": "stopped" if action == "stop" else "started", "switches": exploration_status()}
