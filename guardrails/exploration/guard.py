"""@explore: a small, recorded share of answers differs from the model's own choice."""

from __future__ import annotations

import inspect
import logging
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from guardrails.core.call import Stage
from guardrails.core.method import Method
from guardrails.core.pipeline import attach, brief
from guardrails.decisions.guard import Features, Record
from guardrails.decisions.sinks import Spec, databases_in
from guardrails.errors import DecorationError
from guardrails.exploration.admission import Rules, named
from guardrails.exploration.explorer import Explorer
from guardrails.exploration.limits import Cap, RegretBudget
from guardrails.exploration.outcome import CHOICE, KINDS, RANKING, THRESHOLD, VALUE
from guardrails.exploration.randomness import salt_id_of
from guardrails.typing import F, Guard, Hooks, Policy

logger = logging.getLogger("guardrails")

KEY_VARIABLE = "GUARDRAILS_EXPLORATION_KEY"
_KEY_SIZES = range(16, 65)

Apply = Callable[[Any, "int | None", Any, Any], Any]
Candidates = Sequence[Any] | Callable[..., Any] | str


@dataclass(frozen=True, repr=False)
class explore:  # noqa: N801  # a decorator is read as a verb
    """Serve a little, recorded randomness, so that a model does not only learn what it already shows.

    The draw comes after the model's answer and before the response, on primary answers only: outliers and fallbacks
    are never explored. Everything that may forbid exploration (kill switch, rules, ramp, cap, budget) is asked before
    the draw, so the logged propensity is the probability with which what is served was drawn. Where nothing is changed,
    the model's own object is returned.

    What an answer has to look like depends on the policy's kind: scores of the candidates, ``(n, K)`` or in a field
    ``scores`` (choices and rankings); a ranked list, or a field ``items``, ``ranking`` or ``recommendations``
    (rankings, with ``pool=``; other fields stay as they are); fields ``score`` and ``accept`` (thresholds); a number,
    or a field ``value``, ``prediction`` or ``price`` (values; an explored one comes back in double precision).

    Args:
        policy: with which probability what is served, e.g. `EpsilonGreedy` or `PoolInjection`.
        unit: what is randomised: each row by itself (None), or an argument's name, e.g. ``"user_id"``, whose values
            then keep their draw for a day (with several workers only if they share a key).
        scores: reads the candidates' scores from the answer.
        apply: writes back what is served, as ``apply(answer, row, own, served)``: an action's number, a list, a value;
            by default two scores change places (an ``action`` or ``label`` field follows), or a list is reordered.
        pool: of answers that are lists: the candidates that are not in them; a sequence, the name of an attribute, or
            a function of the method's arguments. Without one only what a list holds can change places.
        rules: what has to hold for a row to be explored: functions of all of the method's arguments that say True,
            for the request or row by row; by name, or named after themselves.
        exclude: candidates that are never explored to, by number (of listed answers by name): a collection, or a
            function of the method's arguments that returns one, or a mask ``(K,)`` or ``(n, K)``.
        cap: how many explored answers one unit may get (needs ``unit``).
        budget: how much predicted score exploration may cost.
        ramp: the share of units that are explored at all; who is in stays in while it grows.
        switch: the kill switch's file; by default the one that ``GUARDRAILS_EXPLORATION_SWITCH`` names, else one that
            ``POST /guardrails/exploration`` sets for all workers of a server.
        deferred: answers are decided ahead and perhaps never shown (prefetched): there is nothing to learn from one
            until feedback says ``shown``.
        key: the environment variable that holds the secret of the draws (16 to 64 bytes). Without it each worker makes
            a secret of its own: propensities are as exact, but records cannot be replayed.
        decisions: where to record, for a service without `install(decisions=...)`: a store's URL, a sink, or a list.
        features: what a record keeps of the row then: ``"store"``, ``"hash"`` or ``"none"``.
        enforce: False draws and records what would have been served, and always serves the model's own choice.

    Raises:
        DecorationError: at decoration, when the method streams or an option is none.

    Example:
        >>> import numpy as np, guardrails as gr
        >>> seen = []
        >>> @gr.explore(gr.EpsilonGreedy(0.5), decisions=seen.append)
        ... def rank(listeners: np.ndarray) -> np.ndarray:
        ...     return np.tile([0.1, 0.7, 0.2], (len(listeners), 1))
        >>> answer = rank(np.zeros((1, 4)))
        >>> bool(answer.argmax() == seen[0].action), seen[0].propensity in (0.5 + 0.5 / 3, 0.5 / 3)
        (True, True)
    """

    policy: Policy
    unit: str | None = None
    scores: Callable[[Any], npt.ArrayLike] | None = None
    apply: Apply | None = None
    pool: Candidates | None = None
    rules: Rules = ()
    exclude: Collection[Any] | Callable[..., Any] = ()
    cap: Cap | None = None
    budget: RegretBudget | None = None
    ramp: float = 1.0
    switch: str | None = None
    deferred: bool = False
    key: str = KEY_VARIABLE
    decisions: Spec | None = None
    features: Features = "none"
    enforce: bool = True
    name: ClassVar[str] = "explore"
    stage: Stage = Stage.EXPLORE
    __repr__ = brief

    def __call__(self, fn: F) -> F:
        """Guard a method."""
        return attach(self, fn)

    @property
    def kind(self) -> str:
        """What the policy explores: a choice, unless it says otherwise."""
        return str(getattr(self.policy, "kind", CHOICE))

    def check(self, method: Method) -> None:
        """At decoration: there is one answer to explore, a policy to explore by, and options that belong to it."""
        if method.shape.streams:
            raise DecorationError(
                f"{method.fn.__qualname__}() streams, and its items leave before there is an answer to explore. "
                "Explore the method that chooses what is streamed."
            )
        self._check_policy()
        if self.unit is not None and self.unit not in [param.name for param in method.params]:
            raise DecorationError(f"explore(unit={self.unit!r}) names no argument of {method.fn.__qualname__}().")
        self._check_kinds()
        if self.cap is not None and self.unit is None:
            raise DecorationError("explore(cap=...): a cap is a unit's. Name the argument, as in unit='user_id'.")
        if not 0.0 <= self.ramp <= 1.0:
            raise DecorationError(f"explore(ramp={self.ramp!r}): a share of the units, between 0 and 1.")
        if self.pool is not None and self.kind != RANKING:
            raise DecorationError("explore(pool=...): a pool is for ranked lists, and for policies that rank.")
        if self.pool is not None and self.scores is not None:
            raise DecorationError(
                "explore(pool=..., scores=...): scores are of all candidates, and need no pool beside."
            )
        if isinstance(self.pool, set | frozenset):
            raise DecorationError(
                "explore(pool=...): a set has another order in each worker, so do the draws; sort it."
            )
        if len(self.exclude_now()) and self.kind not in (CHOICE, RANKING):
            raise DecorationError("explore(exclude=...): only choices and rankings have candidates to exclude.")
        for name, fn in [*named(self.rules).items(), ("exclude", self.exclude), ("pool", self.pool)]:
            if callable(fn) and not _takes(fn, method):
                raise DecorationError(
                    f"explore(): {name!r} does not take the arguments of {method.fn.__qualname__}(): it gets all of "
                    f"them, {', '.join(param.name for param in method.params)}. Add the missing ones, or **others."
                )
        if self.decisions is not None:
            databases_in(self.decisions)

    def _check_kinds(self) -> None:
        """Each option is of the kind it says: one that is not would be found out with the first request."""
        if not (self.cap is None or isinstance(self.cap, Cap)):
            raise DecorationError(f"explore(cap={self.cap!r}): write it as in Cap(3).")
        if not (self.budget is None or isinstance(self.budget, RegretBudget)):
            raise DecorationError(f"explore(budget={self.budget!r}): write it as in RegretBudget(0.5).")
        if isinstance(self.ramp, bool) or not isinstance(self.ramp, int | float):
            raise DecorationError(f"explore(ramp={self.ramp!r}): a share of the units, between 0 and 1.")
        if not (self.switch is None or isinstance(self.switch, str | os.PathLike)):
            raise DecorationError(f"explore(switch={self.switch!r}): the name of a file.")
        if not (callable(self.exclude) or isinstance(self.exclude, list | tuple | set | frozenset | range)):
            raise DecorationError(
                f"explore(exclude={self.exclude!r}): candidates' numbers (of listed answers their names), a mask, or a "
                "function of the method's arguments that answers one of these."
            )

    def __post_init__(self) -> None:
        if isinstance(self.exclude, np.ndarray):  # arrays are not compared, nor printed in one line
            object.__setattr__(self, "exclude", tuple(self.exclude.tolist()))

    def _check_policy(self) -> None:
        needs = {VALUE: ("sample", "pdf"), RANKING: ("sample", "organic", "pmf"), THRESHOLD: ("pmf", "greedy")}
        if self.kind not in KINDS:
            raise DecorationError(f"explore({self.policy!r}): its kind is {self.kind!r}; there are {', '.join(KINDS)}.")
        if not all(callable(getattr(self.policy, name, None)) for name in needs.get(self.kind, ("pmf",))):
            raise DecorationError(f"explore({self.policy!r}): a policy has pmf(scores), as EpsilonGreedy(0.02) has.")
        weakens = self.kind == CHOICE or (self.kind == RANKING and "epsilon" in _fields(self.policy))
        if self.budget is not None and not weakens:
            raise DecorationError(
                f"explore(budget=...) weakens a policy's exploration, which {type(self.policy).__name__} cannot do by "
                "halves. Use it with choices, PoolInjection or SwapPositions, or a ramp instead."
            )

    def exclude_now(self) -> Collection[Any]:
        """What is excluded whatever the request; a function's answer is not known yet."""
        return (None,) if callable(self.exclude) else self.exclude

    def companions(self) -> tuple[Guard, ...]:
        """What has to stand beside it where nothing else records decisions."""
        return () if self.decisions is None else (Record(self.decisions, self.features),)

    def bind(self, method: Method) -> Hooks:
        """At worker start: take the secret, find the switch, share out the budget."""
        explorer = Explorer(self, method, *_secret(self.key))
        return Hooks(after=explorer.after, status=explorer.status)


def _takes(fn: Callable[..., Any], method: Method) -> bool:
    """Whether a function can be called with a method's arguments, by name or in their order."""
    try:
        signature = inspect.signature(fn)
    except (TypeError, ValueError):  # some built-in functions do not tell
        return True
    names = [param.name for param in method.params]
    for args, kwargs in ((names, {}), ([], dict.fromkeys(names))):
        try:
            signature.bind(*args, **kwargs)
        except TypeError:
            continue
        return True
    return False


def _fields(policy: Any) -> list[str]:
    return [one.name for one in fields(policy)] if hasattr(policy, "__dataclass_fields__") else []


def _secret(variable: str) -> tuple[bytes, str]:
    """The key of the draws, and an id that names it without giving it away."""
    text = os.environ.get(variable)
    if text is None:
        key = os.urandom(32)
        logger.info("%s is not set: draws use a secret of this worker's own and cannot be replayed", variable)
    else:
        key = text.encode()
        if len(key) not in _KEY_SIZES:
            raise DecorationError(f"{variable} holds {len(key)} bytes; a key has 16 to 64.")
    return key, salt_id_of(key)
