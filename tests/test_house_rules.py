"""Rules of this project that no linter checks."""

import ast
import importlib.util
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = (
    "contracts",
    "peer_guard",
    "stream_sources",
    "daemon",
    "subscribers",
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
    assert [test.name for test in functions if not ast.get_docstring(test)] == []


@pytest.mark.parametrize("package", PACKAGES)
def test_packages_come_from_this_checkout(package):
    """Another distribution that installs ``daemon`` cannot take our place."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).resolve().is_relative_to(ROOT.resolve())


@pytest.mark.parametrize(
    "package", ["contracts", "daemon", "peer_guard", "stream_sources", "subscribers", "neurrate"]
)
def test_torch_is_imported_late(package):
    """No module of the running daemon imports torch before it needs it."""
    offenders = [
        str(path.relative_to(ROOT))
        for path in sorted((ROOT / package).rglob("*.py"))
        if {"torch", "transformers"}
        & {name.partition(".")[0] for name in _imports_at_module_level(path)}
    ]
    assert offenders == []


def test_onnx_runtime_is_imported_in_one_place():
    """`import_runtime` imports it, after its telemetry was switched off; nothing else does."""
    statement = re.compile(r"(?m)^\s*(?:import|from) onnxruntime\b")
    paths = [
        path for package in (*PACKAGES, "benchmarks") for path in (ROOT / package).rglob("*.py")
    ]
    assert [path for path in paths if statement.search(path.read_text(encoding="utf-8"))] == []


NOT_IN_CLASS_NAMES = ("Desk", "Port", "Rooms", "Lesson", "Heard", "Said", "Told", "Asked")
NOT_IN_TEXT = ("has not stirred", "what it costs", "our fault", "nobody says")
MAX_VERB_LINES, MAX_COMMAND_LINE_LINES = 250, 5_550


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    """Return the text of every Python file of the packages, the tests and the benchmarks."""
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for folder in (*PACKAGES, "tests", "benchmarks")
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


@pytest.fixture(scope="module")
def classes(sources) -> Counter[str]:
    """Return how many classes have each name."""
    return Counter(
        name for text in sources.values() for name in re.findall(r"(?m)^ *class (\w+)", text)
    )


def test_class_names_are_unique(classes):
    """A name that is found in two files leads a reader to the wrong one."""
    assert sorted(name for name, n in classes.items() if n > 1) == []


def test_class_names_use_the_words_of_the_field(classes):
    """No class is named with one of the metaphors that the glossary replaces."""
    words = re.compile(f"({'|'.join(NOT_IN_CLASS_NAMES)})(?![a-z])")
    assert sorted(name for name in classes if words.search(name)) == []


def test_shipped_text_uses_plain_words(sources):
    """Docstrings, comments and messages avoid phrases that the glossary replaces."""
    phrases = re.compile("|".join(NOT_IN_TEXT), re.IGNORECASE)
    offenders = {
        path: phrases.findall(text)
        for path, text in sources.items()
        if path.partition("/")[0] in PACKAGES and phrases.search(text)
    }
    assert offenders == {}


def test_the_command_line_stays_small(sources):
    """A verb parses, calls one function and prints; what does more belongs to a package."""
    n_lines = {
        path: text.count("\n") for path, text in sources.items() if path.startswith("neurrate/")
    }
    assert sum(n_lines.values()) <= MAX_COMMAND_LINE_LINES
    assert {path: n for path, n in n_lines.items() if n > MAX_VERB_LINES} == {}
