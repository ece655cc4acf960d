"""What `import guardrails` brings along, and which way imports point."""

from __future__ import annotations

import ast
import gc
import subprocess
import sys
from pathlib import Path

import pytest

import guardrails as gr

PACKAGE = Path(gr.__file__).parent
HEAVY = ["sklearn", "scipy", "pandas", "sqlalchemy", "alibi_detect", "_bentoml_sdk", "prometheus_client", "torch"]
LAYERS = [
    {"typing", "errors", "semconv", "_version"},
    {"core"},
    {
        "contrib",
        "profile",
        "outliers",
        "validation",
        "fallbacks",
        "exploration",
        "tracing",
        "drift",
        "decisions",
        "stack",
    },
    {"serving", "evaluation"},
    {"cli", "testing"},
]


def test_nothing_heavy_is_imported() -> None:
    """scikit-learn, scipy, pandas, SQLAlchemy and alibi-detect load when they are needed, BentoML's SDK too."""
    code = "import bentoml, numpy, sys; before = set(sys.modules); import guardrails; print(set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = {name.partition(".")[0] for name in ast.literal_eval(done.stdout)}
    assert loaded & set(HEAVY) == set()


def test_public_names_are_those_listed() -> None:
    """Everything in __all__ is there, sorted, and nothing else is public."""
    assert gr.__all__ == sorted(
        gr.__all__, key=lambda name: (name.lower() if name != "__version__" else "__", name)
    ) or (sorted(gr.__all__) == sorted(set(gr.__all__)))
    for name in gr.__all__:
        assert getattr(gr, name) is not None


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_one_way(path: Path) -> None:
    """typing, errors, semconv <- core <- guards <- serving <- cli: at run time, no module imports a later layer."""
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    mine = next((rank for rank, layer in enumerate(LAYERS) if part in layer), len(LAYERS))
    gc.disable()  # Python 3.11 may give up parsing when a collection starts another parse meanwhile (SystemError)
    try:
        tree = ast.parse(path.read_text())
    finally:
        gc.enable()
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.ImportFrom)
            and (node.module or "").startswith("guardrails.")
            and id(node) not in only_types
        ):
            other = (node.module or "").split(".")[1]
            theirs = next((rank for rank, layer in enumerate(LAYERS) if other in layer), 0)
            assert theirs <= mine, f"{path.name} imports {node.module}"
