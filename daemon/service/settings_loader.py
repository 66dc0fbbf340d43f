"""Defaults, one TOML file, the environment and the command line become one `Settings`.

Each layer is read into the same shape, dotted keys and values with their source, and the
strongest value of each key is kept. Every problem is collected; one error lists them all.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import reduce
from operator import getitem
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from contracts.errors import SettingsError
from contracts.selection_text import split_names, topic_names
from contracts.toml import parse_toml, read_toml
from daemon.service.settings import Settings

ENVIRONMENT_PREFIX = "NEURRATE_"
COMMAND_LINE = "--set"
DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class LoadedSettings:
    """Settings, and where each of them came from.

    `provenance` has for each dotted key: ``default``, the file, the environment variable, or
    ``--set``.
    """

    settings: Settings
    provenance: dict[str, str]

    def effective(self) -> dict[str, tuple[Any, str]]:
        """Return each dotted key with its value, as JSON would hold it, and its source."""
        values = self.settings.model_dump(mode="json")
        return {
            key: (reduce(getitem, key.split("."), values), source)
            for key, source in self.provenance.items()
        }


@dataclass(frozen=True, slots=True)
class _Given:
    key: str
    value: object
    source: str


def load_settings(
    *,
    file: Path | None = None,
    environ: Mapping[str, str],
    overrides: Mapping[str, object] | None = None,
) -> LoadedSettings:
    """Build the settings from all their layers, weakest first.

    In `environ`, ``NEURRATE_RING__CAPACITY_S`` sets ``ring.capacity_s``. `overrides` are dotted
    keys and values from the command line: texts are read as TOML values where they are such, and
    ``none`` means None.

    Raises
    ------
    SettingsError
        With every problem of every layer.
    """
    problems: list[str] = []
    strongest: dict[str, _Given] = {}
    layers = (
        _from_file(file, problems),
        _from_environment(environ, problems),
        _from_command_line(overrides or {}, problems),
    )
    for layer in layers:
        strongest.update({given.key: given for given in layer})
    sources = dict.fromkeys(setting_keys(), DEFAULT) | {
        key: given.source for key, given in strongest.items()
    }
    try:
        settings = Settings.model_validate(_nested(strongest.values()))
    except ValidationError as error:
        problems += [_sentence(detail, sources) for detail in error.errors()]
        raise SettingsError(problems) from error
    if problems:
        raise SettingsError(problems)
    return LoadedSettings(settings, sources)


def overrides_of(texts: Sequence[str]) -> dict[str, object]:
    """Read ``key=value`` texts; a later one of the same key wins.

    Raises
    ------
    SettingsError
        If a text has no ``=``.
    """
    bad = [text for text in texts if not text.partition("=")[0].strip() or "=" not in text]
    if bad:
        raise SettingsError([f"--set takes key=value, got {text!r}." for text in bad])
    pairs = (text.partition("=") for text in texts)
    return {key.strip(): value for key, _, value in pairs}


def settings_from(
    config: Path | None, texts: Sequence[str], named: Mapping[str, object] | None = None
) -> LoadedSettings:
    """Load the settings from a file, this process's environment and the command line.

    `named` has the dotted keys and values of options with names of their own; they win over
    ``--set``.
    """
    overrides = {**overrides_of(texts), **(named or {})}
    return load_settings(file=config, environ=os.environ, overrides=overrides)


def named_populations(names: str) -> dict[str, str]:
    """Read ``--populations``: expressions separated by commas, each named as in a topic.

    Raises
    ------
    UserError
        If a quoted name has no end.
    """
    return topic_names(expression for expression in split_names(names, ",") if expression)


def setting_keys() -> tuple[str, ...]:
    """Return every dotted key, in the order of the models."""
    keys: list[str] = []
    for name, field in Settings.model_fields.items():
        group = field.annotation
        if isinstance(group, type) and issubclass(group, BaseModel):
            keys += (f"{name}.{member}" for member in group.model_fields)
        else:
            keys.append(name)
    return tuple(keys)


def _groups() -> set[str]:
    return {key.partition(".")[0] for key in setting_keys() if "." in key}


def _from_file(file: Path | None, problems: list[str]) -> list[_Given]:
    if file is None:
        return []
    source = str(file)
    try:
        table = read_toml(file)
    except FileNotFoundError:
        problems.append(f"There is no settings file {source}. Name one that exists.")
        return []
    except OSError as error:
        problems.append(f"Cannot read the settings file {source}: {error.strerror}.")
        return []
    except ValueError as error:  # TOML errors carry their line; text that is not UTF-8
        problems.append(f"{source} is not TOML: {error}.")
        return []
    return _known(_flat(table, source, problems), problems)


def _flat(table: Mapping[str, Any], source: str, problems: list[str]) -> Iterator[_Given]:
    groups = _groups()
    for name, value in table.items():
        if isinstance(value, dict) and name != "populations" and (value or name not in groups):
            leaves = value.items() or [("", None)]
            yield from (
                _Given(f"{name}.{leaf}".rstrip("."), leaf_value, source)
                for leaf, leaf_value in leaves
            )
        elif name not in groups:
            yield _Given(name, value, source)
        elif not isinstance(value, dict):
            problems.append(f"{name} must be a table [{name}], got {value!r:.64} ({source}).")


def _from_environment(environ: Mapping[str, str], problems: list[str]) -> list[_Given]:
    given = (
        _Given(name.removeprefix(ENVIRONMENT_PREFIX).lower().replace("__", "."), text, name)
        for name, text in sorted(environ.items())
        if name.startswith(ENVIRONMENT_PREFIX)
    )
    return [_read(item) for item in _known(given, problems)]


def _from_command_line(overrides: Mapping[str, object], problems: list[str]) -> list[_Given]:
    given = (_Given(key, value, COMMAND_LINE) for key, value in overrides.items())
    return [_read(item) for item in _known(given, problems)]


def _known(given: Iterable[_Given], problems: list[str]) -> list[_Given]:
    """Keep the keys that exist; say what is nearest to those that do not."""
    keys, items = setting_keys(), list(given)
    problems += [_unknown(item, keys) for item in items if item.key not in keys]
    return [item for item in items if item.key in keys]


def _unknown(given: _Given, keys: tuple[str, ...]) -> str:
    if given.key.startswith("populations."):
        return (
            f"{given.key} cannot be set alone ({given.source}): populations is one table, "
            'set as a whole. Use populations={name = "expression"}.'
        )
    head = f"Unknown key {given.key} in {given.source}."
    hint = " A file of rules is named by triggers.rules." if _is_of_rules(given) else ""
    if given.source.startswith(ENVIRONMENT_PREFIX):
        head = f"Unknown variable {given.source} in the environment."
    nearest = get_close_matches(given.key, keys, n=1, cutoff=0.5)
    if not nearest:
        return f"{head} 'neurrate config show' lists every key.{hint}"
    key = nearest[0]
    if given.source.startswith(ENVIRONMENT_PREFIX):
        key = ENVIRONMENT_PREFIX + key.replace(".", "__").upper()
    return f"{head} Did you mean {key}?{hint}"


def _is_of_rules(given: _Given) -> bool:
    """Whether this is a table of the file that triggers.rules names."""
    group, _, name = given.key.partition(".")
    is_table = isinstance(given.value, Mapping)
    return group == "sinks" or (group == "triggers" and bool(name) and is_table)


def _read(given: _Given) -> _Given:
    """Read a text from the environment or the command line as the value that it spells."""
    if not isinstance(given.value, str):
        return given
    return _Given(given.key, _spelled(given.key, given.value), given.source)


def _spelled(key: str, text: str) -> object:
    if text.strip().lower() == "none" and _may_be(key, type(None)):
        return None
    try:
        value = parse_toml(f"value = {text}")
    except ValueError:
        return text
    if set(value) != {"value"}:  # a line break smuggled in a second key
        return text
    is_text = isinstance(value["value"], str)
    return value["value"] if is_text or not _may_be(key, str, Path) else text


def _may_be(key: str, *types: type) -> bool:
    """Whether a setting takes values of one of the types, as far as its annotation says."""
    group, _, name = key.rpartition(".")
    model = Settings.model_fields[group].annotation if group else Settings
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return False
    annotation = model.model_fields[name].annotation
    if get_origin(annotation) in {Union, UnionType}:
        return any(argument in types for argument in get_args(annotation))
    return annotation in types


def _nested(given: Iterable[_Given]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for item in given:
        group, _, name = item.key.rpartition(".")
        (nested.setdefault(group, {}) if group else nested)[name] = item.value
    return nested


def _sentence(detail: ErrorDetails, sources: Mapping[str, str]) -> str:
    """Say what rule was broken, what was found, and where it came from."""
    where = [str(part) for part in detail["loc"]]
    if not where:  # a rule about several groups, which begins with its key
        rule = detail["msg"].removeprefix("Value error, ")
        return f"{rule} ({sources[rule.partition(' ')[0]]})."
    key = ".".join(where[:2]) if ".".join(where[:2]) in sources else where[0]
    rule = detail["msg"].removeprefix("Value error, ").replace("Input should", "must", 1)
    if key in sources:
        found = f", got {detail['input']!r:.200}" if "got " not in rule else ""
        return f"{key} {rule}{found} ({sources[key]})."
    # A rule about a whole group: name the source of each of its values that was set.
    of_group = {source for name, source in sources.items() if name.startswith(f"{key}.")}
    return f"{key}.{rule} ({', '.join(sorted(of_group - {DEFAULT})) or DEFAULT})."
