"""``guardrails export URL -o FILE``: logged decisions with their rewards, for whoever trains on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from guardrails.cli.common import load_profile
from guardrails.cli.joined import join_options

if TYPE_CHECKING:
    from guardrails.decisions.joined.logged import Logged

FORMATS = {
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather"),
    "csv": (".csv",),
    "dsjson": (".dsjson", ".json"),
    "vw": (".vw", ".txt"),
    "obp": (".npz",),
}
TABLES = ("parquet", "arrow", "csv")


@click.command()
@join_options
@click.option("-o", "--output", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The file.")
@click.option("--format", "form", type=click.Choice(list(FORMATS)), help="By default what the file's name says.")
@click.option("--weights", is_flag=True, help="Add a column weight, 1 / propensity: what to train with.")
@click.option("--learnable", is_flag=True, help="Leave out what nothing can be learned from.")
@click.option("--profile", "tag", help="Names the columns of stored rows, for dsjson and vw.")
def export(
    joined: Callable[[], Logged], output: Path, form: str | None, weights: bool, learnable: bool, tag: str | None
) -> None:
    """Write the decisions in the store URL, with what became of them, to a file.

    Only decisions whose --window is over are written. Without --learnable, tables hold all of them, with a column that
    says which can be learned from; dsjson marks the others, vw and obp leave them out.
    """
    form = form or _by_name(output)
    if weights and form not in TABLES:
        raise click.UsageError(f"--weights goes with {', '.join(TABLES)}: {form} has the propensities themselves.")
    names = None if tag is None else list(load_profile(tag).schema.names)
    logged = joined()
    chosen = logged.select(logged.learnable) if learnable else logged
    if not len(chosen) or (form in ("vw", "obp") and not chosen.learnable.any()):
        raise click.ClickException(
            f"there is nothing to export: {logged.counts}, and none of them can be learned from (nothing was explored)."
        )
    try:
        written = _write(chosen, output, form, weights, names)
    except (ImportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{output} cannot be written: {error.strerror or error}.") from error
    useless = int((~logged.learnable).sum())
    tail = f" ({useless} to learn nothing from)" if useless else ""
    click.echo(f"wrote {written} decisions to {output} as {form}: {logged.counts}{tail}")


def _by_name(output: Path) -> str:
    for form, suffixes in FORMATS.items():
        if output.suffix.lower() in suffixes:
            return form
    raise click.UsageError(f"{output.name} does not say what it is to be: give --format {'|'.join(FORMATS)}.")


def _write(logged: Logged, output: Path, form: str, weights: bool, names: list[str] | None) -> int:
    """Write all of it or nothing: what was there before stays until the new file is complete."""
    partial = output.with_name(f".{output.name}.partial")
    try:
        written = _WRITERS[form](logged, partial, weights, names)
        os.replace(partial, output)  # noqa: PTH105  # as a whole
    finally:
        partial.unlink(missing_ok=True)
    return written


def _parquet(logged: Logged, path: Path, weights: bool, _names: Any) -> int:
    from guardrails.contrib.arrow import write_parquet

    write_parquet(logged, path, weights=weights)
    return len(logged)


def _arrow(logged: Logged, path: Path, weights: bool, _names: Any) -> int:
    from guardrails.contrib.arrow import write_arrow

    write_arrow(logged, path, weights=weights)
    return len(logged)


def _csv(logged: Logged, path: Path, weights: bool, _names: Any) -> int:
    from guardrails.decisions.joined.tabular import write_csv

    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        write_csv(logged, file, weights=weights)
    return len(logged)


def _dsjson(logged: Logged, path: Path, _weights: bool, names: list[str] | None) -> int:
    from guardrails.contrib.vw import to_dsjson

    return _lines(to_dsjson(logged, names=names), path)


def _vw(logged: Logged, path: Path, _weights: bool, names: list[str] | None) -> int:
    from guardrails.contrib.vw import to_text

    return _lines(to_text(logged, names=names), path)


def _lines(examples: Iterable[str], path: Path) -> int:
    count = 0
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for count, example in enumerate(examples, start=1):  # noqa: B007  # counted
            file.write(example + "\n")
    return count


def _obp(logged: Logged, path: Path, _weights: bool, _names: Any) -> int:
    import numpy as np

    from guardrails.contrib.obp import to_obp

    feedback = {name: np.asarray(value) for name, value in to_obp(logged).items() if value is not None}
    with path.open("wb") as file:
        np.savez_compressed(file, **feedback)  # type: ignore[arg-type,unused-ignore]
    return int(feedback["n_rounds"])


_WRITERS: dict[str, Callable[[Logged, Path, bool, list[str] | None], int]] = {
    "parquet": _parquet,
    "arrow": _arrow,
    "csv": _csv,
    "dsjson": _dsjson,
    "vw": _vw,
    "obp": _obp,
}
