"""Policies from text: as a record's ``policy`` spells them, or somebody on a command line. Nothing is evaluated."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any

from guardrails.typing import Policy

_FLOATS = {"inf": float("inf"), "nan": float("nan")}


def policy_of(text: str) -> Policy:
    """The policy that a text spells.

    Args:
        text: such as ``EpsilonGreedy(0.05)`` or ``Floor(Softmax(temperature=2.0), minimum=0.01)``: a policy of
            `guardrails.exploration`, with numbers, texts, lists and other such policies as arguments.

    Raises:
        ValueError: it spells none.

    Example:
        >>> policy_of("EpsilonGreedy(0.05)")
        EpsilonGreedy(epsilon=0.05)
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is no text that spells a policy")  # noqa: TRY004  # as everything else it refuses
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r} spells no policy: {error}. Write it as in EpsilonGreedy(0.05).") from error
    if not isinstance(tree, ast.Call):
        raise ValueError(f"{text!r} spells no policy. Write it as in EpsilonGreedy(0.05).")  # noqa: TRY004  # a text
    try:
        policy: Policy = _made(tree, text)
    except RecursionError as error:
        raise ValueError(f"{text[:60]!r}... spells no policy: it is nested too deeply") from error
    return policy


def _made(node: ast.Call, text: str) -> Any:
    from guardrails import exploration

    name = node.func.id if isinstance(node.func, ast.Name) else ""
    known = [one for one in exploration.__all__ if one == "Boost" or hasattr(getattr(exploration, one), "kind")]
    if name not in known:
        raise ValueError(
            f"{text!r}: there is no policy {name or ast.unparse(node.func)!r}. There are {', '.join(known)}."
        )
    names = [one.arg for one in node.keywords]
    if None in names or len(set(names)) < len(names):
        raise ValueError(f"{text!r}: each argument is given once, by its name")
    make: Callable[..., Any] = getattr(exploration, name)
    try:
        positional = [_value(one, text) for one in node.args]
        named = {str(one.arg): _value(one.value, text) for one in node.keywords if one.arg is not None}
        return make(*positional, **named)
    except (TypeError, OverflowError) as error:
        raise ValueError(f"{text!r}: {error}") from error


def _value(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Call):
        return _made(node, text)
    if isinstance(node, ast.Name) and node.id in _FLOATS:
        return _FLOATS[node.id]
    try:
        return ast.literal_eval(node)
    except ValueError as error:
        raise ValueError(f"{text!r}: {ast.unparse(node)!r} is neither a number, a text, a list nor a policy") from error
