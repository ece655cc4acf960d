"""What the commands share: a profile by its tag, the decisions of a store, errors in one line."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from guardrails.profile import Profile

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def load_profile(tag: str) -> Profile:
    """The profile, or an error that a terminal can show."""
    from guardrails.errors import ProfileError
    from guardrails.profile import Profile

    try:
        return Profile.load(tag)
    except ProfileError as error:
        raise click.ClickException(str(error)) from error


def decisions(url: str, since: float | None, api: str | None) -> list[dict[str, Any]]:
    """The decisions of a store, with their rewards, oldest first."""
    import sqlalchemy as sa

    from guardrails.decisions.stores.store import DecisionStore
    from guardrails.errors import DecisionStoreError

    try:
        store = DecisionStore(url)
    except DecisionStoreError as error:
        raise click.ClickException(str(error)) from error
    try:
        store.require()
        found = store.joined()
    except DecisionStoreError as error:
        raise click.ClickException(str(error)) from error
    except sa.exc.DBAPIError as error:  # the store's own name has no password in it, the URL as given may
        raise click.ClickException(f"{store.url} cannot be read: {error.orig}") from error
    finally:
        store.close()
    earliest = 0.0 if since is None else time.time() - since
    return [row for row in found if row["ts"] >= earliest and api in (None, row["api"])]


class Age(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.2 on
    """A time span such as ``36h`` or ``7d``, in seconds."""

    name = "age"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        """Read it."""
        if isinstance(value, int | float):
            return float(value)
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", str(value))
        if match is None:
            self.fail(f"{value!r} is no time span; write e.g. 90m, 36h or 7d.", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


def of_profile(record: Mapping[str, Any], profile: Profile) -> bool:
    """Whether this very profile judged the decision."""
    return record["profile"] in (profile.tag, profile.digest)
