"""A profile by its tag: resolved when a worker starts, pinned inside a bento."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from guardrails.core.host import host
from guardrails.core.pipeline import class_namespace
from guardrails.errors import ProfileError
from guardrails.profile.profile import Profile

_loaded: dict[str, Profile] = {}
_lock = threading.Lock()


@dataclass(frozen=True)
class ProfileRef:
    """A profile that is looked up when a worker starts, never at import.

    Attributes:
        tag: ``name:version`` or ``name:latest``. A bento pins the version that was current when it was built.
    """

    tag: str

    def resolve(self, owner: type | None = None) -> Profile:
        """Load it; once per worker, whichever guard asks first.

        Raises:
            ProfileError: it is not in the model store, or not readable.
        """
        tag = self.tag if owner is None else host().pinned(owner, self.tag)
        with _lock:
            known = _loaded.get(tag)
            if known is None or tag.endswith(":latest") or ":" not in tag:
                loaded = Profile.load(tag)
                # Guards share what they read of a request only if they share the profile, as one object.
                known = _loaded.setdefault(loaded.tag or tag, loaded)
            return known


ProfileSpec: TypeAlias = "Profile | ProfileRef | Callable[[Any], Profile]"


def resolve(spec: ProfileSpec, owner: Any) -> Profile:
    """The profile a guard was given: itself, by reference, or by ``lambda self: ...``.

    Raises:
        ProfileError: it cannot be found, or is none.
    """
    if isinstance(spec, ProfileRef):
        return spec.resolve(None if owner is None else type(owner))
    found = spec(owner) if callable(spec) and not isinstance(spec, Profile) else spec
    if isinstance(found, ProfileRef):
        return found.resolve(type(owner))
    if not isinstance(found, Profile):
        raise ProfileError(f"{found!r} is no profile. Give a Profile, Profile.ref(tag), or lambda self: self.profile.")
    return found


def pin(spec: Any, fn: Callable[..., Any]) -> None:
    """Leave a reference among the attributes of the class being defined, where `bentoml build` looks for models."""
    tag = spec.tag if isinstance(spec, ProfileRef | Profile) else None
    namespace = class_namespace(fn)
    if tag is None or namespace is None:
        return
    from bentoml.models import BentoModel

    namespace.setdefault(f"_guardrails_profile_{tag.replace(':', '_').replace('-', '_')}", BentoModel(tag))
