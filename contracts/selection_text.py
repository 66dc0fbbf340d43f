"""Names of areas, cell types, probes and units in the expressions that select units.

An area may have any name, such as ``Primary visual area, layer 2/3``. Expressions take it in double
quotation marks, with JSON's escapes. People see the name itself, with control characters escaped.
Topics allow only ASCII letters, digits, ``_`` and ``-``, so their names are derived.
"""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections.abc import Iterable, Sequence

from contracts.errors import UserError

KINDS = ("area", "probe", "cell_type", "unit", "ids")
"""The words that may precede the first colon of an expression."""

RESERVED = frozenset({"all", "shuffled", "silent", "good", "allen"})
"""Keywords of the expressions; an area with one of these names must be quoted."""

MAX_TOPIC = 64
"""Length of a population's name in a topic."""

HASH_DIGITS = 6
"""Length of the hash that keeps two names apart in topics."""

_TOPIC_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-")
_BLANK = " \t\r\n"
_STRING = json.JSONDecoder(strict=False)


def shown(name: str) -> str:
    r"""Return a name for display, with what is not printable escaped.

    >>> print(shown("Süd\n"))
    Süd\n
    """
    if name.isprintable():
        return name
    return "".join(letter if letter.isprintable() else json.dumps(letter)[1:-1] for letter in name)


def named(name: str) -> str:
    r"""Return a name as an expression takes it, quoted if necessary.

    >>> print(named("VISp"), named("layer 2/3, deep"), named('the "hilus"'))
    VISp "layer 2/3, deep" "the \"hilus\""
    """
    is_special = name in RESERVED or name.partition(":")[0] in KINDS or set(name) & set(',|"')
    if name and name == name.strip() and name.isprintable() and not is_special:
        return name
    quoted = shown(name.replace("\\", "\\\\").replace('"', '\\"'))
    return f'"{quoted}"'


def split_names(text: str, separator: str) -> list[str]:
    """Split a text at each separator outside quoted names, and strip the parts.

    A quoted name can begin a part, or follow ``|`` or a kind's colon. A quotation mark anywhere
    else is part of a name.

    Raises
    ------
    UserError
        If a closing quotation mark is missing.

    Examples
    --------
    >>> split_names('all, area:"layer 2/3, deep"|VISp', ",")
    ['all', 'area:"layer 2/3, deep"|VISp']
    """
    parts, begin, at, is_name_next = [], 0, 0, True
    while at < len(text):
        letter = text[at]
        if letter == '"' and is_name_next:
            at = _quoted(text, at)[1]
            is_name_next = False
            continue
        if letter == separator:
            parts.append(text[begin:at].strip())
            begin = at + 1
        is_name_next = (
            letter in f"|{separator}"
            or (letter == ":" and text[begin:at].strip() in KINDS)
            or (letter in _BLANK and is_name_next)
        )
        at += 1
    return [*parts, text[begin:].strip()]


def read_name(text: str) -> str:
    """Return a name that may be quoted.

    Raises
    ------
    UserError
        If the closing quotation mark is missing, or text follows it.

    Examples
    --------
    >>> read_name('"layer 2/3, deep"'), read_name("VISp")
    ('layer 2/3, deep', 'VISp')
    """
    if not text.startswith('"'):
        return text
    name, end = _quoted(text, 0)
    if text[end:].strip():
        raise UserError(
            f"a name in quotation marks must end with the second mark, got {shown(text)}. "
            r"Write \" for a mark within the name"
        )
    return name


def split_ids(text: str) -> list[str]:
    """Read ids that are separated by ``,`` or ``|``.

    >>> split_ids('1, 2|3|"a,b"')
    ['1', '2', '3', 'a,b']
    """
    parts = [part for group in split_names(text, ",") for part in split_names(group, "|")]
    return [read_name(part) for part in parts if part]


def read_expression(expression: str) -> tuple[str, tuple[str, ...]]:
    """Return the kind of an expression, empty for a bare name, and its names.

    Unless it is quoted, everything after the colon is one name; only ids are split.

    Raises
    ------
    UserError
        If a closing quotation mark is missing, or text follows it.

    Examples
    --------
    >>> read_expression("area:VISp"), read_expression('"a, b"|c')
    (('area', ('VISp',)), ('', ('a, b', 'c')))
    """
    kind, colon, value = expression.partition(":")
    if not colon or kind not in KINDS:
        kind, value = "", expression
    if kind in {"unit", "ids"}:
        return kind, tuple(split_ids(value))
    if not value.lstrip().startswith('"'):
        return kind, (value,)
    return kind, tuple(read_name(part) for part in split_names(value, "|"))


def label_of(name: str, expression: str) -> str:
    """Return a population's name for display: the one that its name in topics was derived from.

    >>> label_of("Sud", "Süd"), label_of("Sud", 'area:"Süd"'), label_of("south", "Süd")
    ('Süd', 'Süd', 'south')
    """
    label = _label(expression)
    origins = (expression, label, label.partition(":")[2])
    return next((_label(text) for text in origins if text and name in _topics(text)), name)


def topic_names(expressions: Iterable[str]) -> dict[str, str]:
    """Return the expressions by the name that each has in topics.

    >>> topic_names(["all", "area:VISp", "Süd", "Sud"])
    {'all': 'all', 'area_VISp': 'area:VISp', 'Sud-be833b': 'Süd', 'Sud': 'Sud'}
    """
    wanted = list(dict.fromkeys(expressions))
    taken: dict[str, str] = {}
    # First those that need no change: they keep their names.
    for expression in sorted(wanted, key=lambda text: _topics(text)[0] != text):
        names = _topics(expression)
        taken[next((name for name in names if name not in taken), names[-1])] = expression
    return dict(sorted(taken.items(), key=lambda item: wanted.index(item[1])))


def _quoted(text: str, at: int) -> tuple[str, int]:
    """Return the quoted name that begins at a position of a text, and the position after it.

    Raises
    ------
    UserError
        If its closing quotation mark is missing.
    """
    try:
        name, end = _STRING.raw_decode(text, at)
    except ValueError as error:
        raise UserError(
            f"a name in quotation marks needs the second mark, got {shown(text[at:])}. Write "
            r"\" for a mark within the name and \\ for a backslash"
        ) from error
    return str(name), end


def _label(expression: str) -> str:
    try:
        kind, names = read_expression(expression)
    except UserError:
        return shown(expression)
    together = "|".join(shown(name) for name in names)
    return f"{kind}:{together}" if kind else together


def _topics(expression: str) -> Sequence[str]:
    """Return the names that an expression may have in a topic, best first.

    The best, without a hash, is the one that older versions used. It is left out where whole
    letters are lost, not only accents, because too little of the name would remain.
    """
    label = _label(expression)
    bare = "".join(c for c in unicodedata.normalize("NFKD", label) if not unicodedata.combining(c))
    plain = "".join(letter if letter in _TOPIC_LETTERS else "_" for letter in bare)
    digest = hashlib.sha256(expression.encode("utf-8", "surrogatepass")).hexdigest()
    hashed = [
        f"{plain[: MAX_TOPIC - 1 - n]}-{digest[:n]}" for n in (HASH_DIGITS, 2 * HASH_DIGITS, 32)
    ]
    is_lost = any(letter.isalnum() and not letter.isascii() for letter in bare)
    is_blank = not plain.strip("_") and not (label and label.isascii())
    is_reserved = label in RESERVED and label != expression
    return hashed if is_lost or is_blank or is_reserved else [plain[:MAX_TOPIC], *hashed]
