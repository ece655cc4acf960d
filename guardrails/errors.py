"""Every error and warning of the library, and what each one means for a client.

```
GuardrailsError
├─ DecorationError (TypeError)    at import or start-up: a decorator stands where it cannot work
├─ ProfileError (ValueError)      a profile cannot be fitted, saved, found or read
├─ DecisionStoreError             the decision store cannot be opened
├─ BreakerOpen (BentoML's 503)    nobody was asked, because a breaker is open and nothing stands in
└─ Rejected (BentoML's 422)       a request was refused: at run time, for the client
GuardrailsWarning (UserWarning)   something works, but not as its author probably meant
```
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bentoml.exceptions import BentoMLException, ServiceUnavailable, UnprocessableEntity


class GuardrailsError(Exception):
    """Base of every error this library raises on its own account."""


class DecorationError(GuardrailsError, TypeError):
    """A decorator was put where it cannot work. Raised at import or start-up; the message holds the fix."""


class ProfileError(GuardrailsError, ValueError):
    """A profile cannot be fitted, saved, found or read."""


class DecisionStoreError(GuardrailsError):
    """The decision store cannot be opened or has a schema this version does not know."""


class BreakerOpen(GuardrailsError, ServiceUnavailable):
    """A circuit breaker is open, so nobody was asked. BentoML answers 503 where no fallback stands in."""


def is_clients(error: BaseException) -> bool:
    """Whether an error is the client's own (BentoML's 4xx): it says nothing about the health of who raised it."""
    return isinstance(error, BentoMLException) and 400 <= error.error_code.value < 500  # noqa: PLR2004


class Rejected(GuardrailsError, UnprocessableEntity):
    """A guard refused the request. BentoML answers 422; `install` gives it a JSON body of its own.

    Attributes:
        reason: ``outlier`` or ``invalid`` (or what made the last fallback of a chain give up).
        decision_id: the id under which the refusal is recorded and traced.
        details: one mapping per problem, each naming field, rule, expected and found.
    """

    def __init__(
        self, message: str, *, reason: str, decision_id: str, details: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.decision_id = decision_id
        self.details = tuple(details)

    def body(self) -> dict[str, Any]:
        """The JSON body of the 422."""
        return {
            "error": str(self),
            "reason": self.reason,
            "decision_id": self.decision_id,
            "details": [dict(detail) for detail in self.details],
        }


def is_rescued(error: BaseException, on: tuple[type[BaseException], ...]) -> bool:
    """Whether somebody else may answer instead of an error.

    What is the client's own fault stays the model's answer, unless its kind is named; a refusal of another guarded
    method behind this one is no answer to this one's client.
    """
    if not isinstance(error, on):
        return False
    named = any(isinstance(error, kind) and issubclass(kind, BentoMLException) for kind in on)
    return named or isinstance(error, Rejected) or not is_clients(error)


class GuardrailsWarning(UserWarning):
    """Something works, but probably not as its author meant."""
