"""Rules of the house that no linter checks."""

import ast
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "contracts",
    "stream_sources",
    "daemon",
    "encoder_training",
    "encoder_export",
    "evaluation",
    "simulation",
    "neurrate",
)


def _imports_at_module_level(path: Path) -> Iterator[str]:
    """Yield what is imported as soon as the module is, but not under TYPE_CHECKING."""
    pending: list[ast.AST] = list(ast.parse(path.read_text(encoding="utf-8")).body)
    while pending:
        node = pending.pop()
        match node:
            case ast.Import():
                yield from (alias.name for alias in node.names)
            case ast.ImportFrom(module=str(module)):
                yield module
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                continue
            case ast.If(test=ast.Name(id="TYPE_CHECKING")):
                pending += node.orelse
            case _:
                pending += ast.iter_child_nodes(node)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests").rglob("test_*.py")), ids=lambda path: path.stem
)
def test_every_test_says_what_it_shows(path):
    """Each test function has a docstring."""
    functions = [
        node
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    assert [one.name for one in functions if not ast.get_docstring(one)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_checkout(package):
    """Another distribution that installs ``daemon`` cannot take our place."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve().is_relative_to(ROOT.resolve())


@pytest.mark.parametrize("package", ["contracts", "daemon", "stream_sources", "neurrate"])
def test_torch_is_imported_late(package):
    """No module of the running daemon imports torch before it needs it."""
    offenders = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / package).rglob("*.py"))
        if {"torch", "transformers"}
        & {name.partition(".")[0] for name in _imports_at_module_level(path)}
    ]
    assert offenders == []
