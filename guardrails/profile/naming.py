"""Bins in words: what a person calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from guardrails.profile.answers import PREDICTION
from guardrails.profile.bins import MISSING, OTHER
from guardrails.profile.watched import OUTLIER

if TYPE_CHECKING:
    from guardrails.profile.profile import Profile


def bin_text(profile: Profile, column: int, bin_: int) -> str:
    """A bin of a watched column in words, such as ``3.2 to 4.1``, ``'red'``, ``missing``.

    Args:
        profile: whose.
        column: the number of the watched column.
        bin_: the number of the bin.
    """
    bins = profile.bins
    special = {MISSING: "missing", OTHER: "a category training had not seen or that is rare"}
    if bins.label(bin_) in special:
        return special[bins.label(bin_)]
    cuts = bins.edges[column][np.isfinite(bins.edges[column])]
    if not bins.categorical[column]:
        last = len(cuts)
        if last == 2 and np.nextafter(cuts[1], -np.inf) == cuts[0]:  # noqa: PLR2004  # a constant
            return f"{('below', 'always', 'above')[min(bin_, 2)]} {cuts[1]:.4g}"
        if bin_ == 0:
            return f"at most {cuts[0]:.4g}"
        return f"above {cuts[last - 1]:.4g}" if bin_ >= last else f"{cuts[bin_ - 1]:.4g} to {cuts[bin_]:.4g}"
    code, name = int(cuts[bin_]), bins.names[column]
    if column < len(profile.schema.features):
        return repr(profile.schema.features[column].categories[code])
    if name == OUTLIER:
        return "an outlier" if code else "no outlier"
    return f"class {code}" if name == PREDICTION else f"{code}"
