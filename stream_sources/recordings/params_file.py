"""The sampling rate in phy's ``params.py``, a Python file that people also write by hand.

Python's own parser reads the file, and nothing in it is run: assignments are followed in order, and
only arithmetic on numbers is evaluated. A rate stated in any other way is refused with its line,
never guessed.
"""

from __future__ import annotations

import ast
import operator
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

RATE_NAME = "sample_rate"
"""As phy and SpikeInterface look for it, in any case."""

OTHER_NAMES = frozenset({
    "samplerate", "sampling_rate", "samplingrate", "sampling_frequency", "sampling_freq",
    "sample_frequency", "sample_freq", "sampling_hz", "sample_rate_hz", "sampling_rate_hz", "fs",
    "srate", "rate", "sfreq", "freq",
})  # fmt: skip
"""Other programs' names for a rate. Phy reads none of them, so the file is refused as ambiguous."""

MAX_BYTES = 1 << 20
"""Kilosort and phy write a few hundred bytes."""

MAX_EXPONENT = 64
"""Largest exponent of ``**``, so that no line takes minutes to evaluate."""

MAX_BITS = 1024
"""Largest whole number, in bits; no float is larger than 1,024 bits."""

OPERATORS: dict[type[ast.AST], Callable[..., Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul,
    ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod,
    ast.Pow: operator.pow, ast.UAdd: operator.pos, ast.USub: operator.neg,
}  # fmt: skip

CALLS: dict[str, Callable[..., Any]] = {
    "float": float, "int": int, "round": round, "abs": abs,
    **{f"numpy.{kind}": getattr(np, kind) for kind in (
        "float64", "float32", "double", "single", "int64", "int32", "uint64", "uint32",
        "int16", "uint16",
    )},
}  # fmt: skip
"""Functions of one argument that are evaluated."""

DYNAMIC = frozenset({"exec", "eval", "globals", "locals", "vars", "setattr"})
"""Functions that may assign any name."""


class StatedRate(NamedTuple):
    """A sampling rate and the line that assigns it."""

    hz: float
    line: int


class ParamsError(ValueError):
    """The file is not Python, or states a rate that cannot be evaluated."""


def read_rate(path: Path) -> StatedRate | None:
    """Return the rate that a ``params.py`` states; None if it states none.

    Raises
    ------
    ParamsError
        If it states one that cannot be evaluated, or cannot be parsed.
    """
    tree = _parse(path)
    names = _Names(_global_names(tree))
    for statement in tree.body:
        names.follow(statement)
    stated = {name: value for name, value in names.known().items() if name.lower() == RATE_NAME}
    rates = {name: _rate(value) for name, value in stated.items()}
    if len({rate.hz for rate in rates.values()}) > 1:
        raise ParamsError(f"{' and '.join(sorted(rates))} differ; keep one of them")
    if rates:
        return next(iter(rates.values()))
    elsewhere = names.everything or next(_mentions(tree), None)
    if elsewhere is not None:
        raise ParamsError(
            f"line {elsewhere.line} may state the rate in a way that is not evaluated "
            f"({elsewhere.what}); write {RATE_NAME} = NUMBER"
        )
    return None


class _Unread(NamedTuple):
    """An assignment that is not evaluated, and why."""

    line: int
    what: str


class _Bound(NamedTuple):
    """An evaluated assignment."""

    line: int
    value: object


def _parse(path: Path) -> ast.Module:
    source = path.read_bytes()
    if len(source) > MAX_BYTES:
        raise ParamsError(f"it has {len(source):,} bytes, which no params.py has")
    if b"\0" in source:
        raise ParamsError("it is not UTF-8 (UTF-16, or no text at all); save it as UTF-8")
    try:
        return _tree(source)
    except SyntaxError as error:
        raise ParamsError(
            f"line {error.lineno or 1} is not Python ({error.msg}); correct the line, phy cannot "
            "read it either"
        ) from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ParamsError(f"it cannot be parsed: {error or type(error).__name__}") from error


def _tree(source: bytes) -> ast.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes such as "\d" in a path
        try:
            return ast.parse(source)
        except SyntaxError as error:
            if not error.msg.startswith("(unicode error) 'utf-8'"):
                raise
            # Phy on Windows reads the local code page. Only ASCII matters here.
            return ast.parse(source.decode("latin-1"))


class _Names:
    """What is known of the module's names after each of its statements."""

    def __init__(self, elsewhere: dict[str, _Unread]) -> None:
        self.values: dict[str, _Bound | _Unread] = {}
        self._elsewhere = elsewhere  # names that a function may assign at any time
        self.everything: _Unread | None = None  # the last statement that may assign any name

    def known(self) -> dict[str, _Bound | _Unread]:
        """Return what each name is at the end."""
        return {**self.values, **self._elsewhere}

    def follow(self, statement: ast.stmt) -> None:
        """Follow one statement of the module; all must be given, in order."""
        match statement:
            case ast.Assign(targets=targets, value=value):
                self._note_others(value)
                evaluated = self._evaluated(value)
                for target in targets:
                    self._assign(target, value, evaluated)
            case ast.AnnAssign(target=target, value=ast.expr() as value):
                self._note_others(value)
                self._assign(target, value, self._evaluated(value))
            case ast.AnnAssign():
                pass
            case ast.AugAssign(target=ast.Name(id=name), op=operation, value=value):
                self._note_others(value)
                spelled_out = ast.BinOp(ast.Name(name, ast.Load()), operation, value)
                ast.fix_missing_locations(ast.copy_location(spelled_out, statement))
                self.values[name] = self._evaluated(spelled_out)
            case ast.Import(names=imported):
                for alias in imported:
                    first_name = alias.name.partition(".")[0]
                    module = _Module(alias.name if alias.asname else first_name)
                    self.values[alias.asname or first_name] = _Bound(statement.lineno, module)
            case ast.ImportFrom(module=package, names=imported) if not _is_star(imported):
                for alias in imported:
                    module = _Module(f"{'.' * statement.level}{package}.{alias.name}")
                    self.values[alias.asname or alias.name] = _Bound(statement.lineno, module)
            case _:
                self._note_others(statement)

    def _assign(self, target: ast.expr, value: ast.expr, evaluated: _Bound | _Unread) -> None:
        if isinstance(target, ast.Name):
            self.values[target.id] = evaluated
            return
        if isinstance(target, ast.Tuple | ast.List) and isinstance(value, ast.Tuple | ast.List):
            together = (*target.elts, *value.elts)
            if len(target.elts) == len(value.elts) and not any(
                isinstance(part, ast.Starred) for part in together
            ):
                # Evaluate all values first, for "a, b = b, a".
                parts = [self._evaluated(part) for part in value.elts]
                for part, of_value, result in zip(target.elts, value.elts, parts, strict=True):
                    self._assign(part, of_value, result)
                return
        self._note_others(target)

    def _note_others(self, node: ast.AST) -> None:
        """Mark each name that is assigned anywhere below a node as not evaluated."""
        for name, line in _assigned(node):
            if name == "*":
                self.everything = _Unread(line, "it may assign any name")
                self.values = dict.fromkeys(self.values, self.everything)
            else:
                self.values[name] = _Unread(
                    line, "it is assigned or deleted in another kind of statement"
                )

    def _evaluated(self, node: ast.expr) -> _Bound | _Unread:
        try:
            with np.errstate(all="raise"):  # or NumPy's integers wrap around
                value = self._value(node)
            return _Bound(node.lineno, _number(value) if isinstance(value, int) else value)
        except ParamsError as error:
            return _Unread(node.lineno, str(error))
        except (ArithmeticError, ValueError, TypeError, RecursionError) as error:
            return _Unread(node.lineno, f"{type(error).__name__}: {error}")

    def _value(self, node: ast.expr) -> object:
        match node:
            case ast.Constant(value=bool() | None | complex() | bytes()):
                pass
            case ast.Constant(value=value):
                return value
            case ast.UnaryOp(op=operation, operand=operand) if type(operation) in OPERATORS:
                return OPERATORS[type(operation)](_number(self._value(operand)))
            case ast.BinOp(left=left, op=operation, right=right) if type(operation) in OPERATORS:
                first, second = _number(self._value(left)), _number(self._value(right))
                if isinstance(operation, ast.Pow) and abs(second) > MAX_EXPONENT:
                    raise ParamsError(f"an exponent beyond {MAX_EXPONENT} is not evaluated")
                return OPERATORS[type(operation)](first, second)
            case ast.Name(id=name):
                return self._named(name)
            case ast.Attribute(value=owner, attr=attribute):
                module = self._value(owner)
                if isinstance(module, _Module):
                    return _Module(f"{module.path}.{attribute}")
            case ast.Call(func=function, args=[argument], keywords=[]):
                called = self._value(function)
                if isinstance(called, _Module) and called.path in CALLS:
                    given = self._value(argument)
                    return CALLS[called.path](given if isinstance(given, str) else _number(given))
        raise ParamsError(f"{ast.unparse(node)[:60]!r} is not evaluated")

    def _named(self, name: str) -> object:
        known = self._elsewhere.get(name) or self.values.get(name, self.everything)
        if isinstance(known, _Bound):
            return known.value
        if isinstance(known, _Unread):
            raise ParamsError(f"{name} of line {known.line} is not known: {known.what}")
        if name in CALLS:
            return _Module(name)
        raise ParamsError(f"{name} is not assigned before")


class _Module(NamedTuple):
    """A module or a function, by its full name."""

    path: str

    def __repr__(self) -> str:
        return self.path


def _number(value: object) -> Any:
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        raise ParamsError(f"a whole number of more than {MAX_BITS:,} bits is not evaluated")
    if isinstance(value, int | float | np.number):
        return value
    raise ParamsError(f"{value!r:.60} is not a number")


def _rate(stated: _Bound | _Unread) -> StatedRate:
    """Return an assigned rate, which may be a string of a number, as in phy.

    Raises
    ------
    ParamsError
        If it is not a number.
    """
    if isinstance(stated, _Unread):
        raise ParamsError(
            f"line {stated.line} states {RATE_NAME} in a way that is not evaluated: "
            f"{stated.what}. Write {RATE_NAME} = NUMBER"
        )
    try:
        value = stated.value
        hz = float(value) if isinstance(value, str) else float(_number(value))
    except (ValueError, OverflowError) as error:
        raise ParamsError(
            f"line {stated.line}: {RATE_NAME} must be a number, got {stated.value!r:.60}"
        ) from error
    return StatedRate(hz, stated.line)


def _assigned(node: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield each name that is assigned anywhere below a node, and its line; ``*`` is any name."""
    for below in ast.walk(node):
        line = getattr(below, "lineno", 0)
        match below:
            case ast.Name(id=name, ctx=ast.Store() | ast.Del()):
                yield name, line
            case ast.Name(id=name) if name in DYNAMIC:
                yield "*", line
            case ast.ImportFrom(names=imported) if _is_star(imported):
                yield "*", line
            case ast.Import(names=imported) | ast.ImportFrom(names=imported):
                for alias in imported:
                    yield alias.asname or alias.name.partition(".")[0], line
            case (
                ast.FunctionDef(name=name)
                | ast.AsyncFunctionDef(name=name)
                | ast.ClassDef(name=name)
                | ast.ExceptHandler(name=str(name))
                | ast.MatchAs(name=str(name))
                | ast.MatchStar(name=str(name))
                | ast.MatchMapping(rest=str(name))
            ):
                yield name, line


def _global_names(tree: ast.Module) -> dict[str, _Unread]:
    return {
        name: _Unread(node.lineno, "a function may assign it")
        for node in ast.walk(tree)
        if isinstance(node, ast.Global)
        for name in node.names
    }


def _is_star(imported: list[ast.alias]) -> bool:
    return any(name.name == "*" for name in imported)


def _mentions(tree: ast.Module) -> Iterator[_Unread]:
    """Yield what else may be a rate: a key, an argument, an attribute, one of `OTHER_NAMES`."""
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        match node:
            case ast.Constant(value=str(text)) if text.lower() in {RATE_NAME, *OTHER_NAMES}:
                yield _Unread(line, repr(text))
            case (
                ast.keyword(arg=str(name))
                | ast.Attribute(attr=name)
                | ast.Name(id=name, ctx=ast.Store())
            ) if name.lower() in {RATE_NAME, *OTHER_NAMES}:
                yield _Unread(line, name)
