"""The command ``neurrate``: from words to a verb, and from an error to a sentence and a code."""

from __future__ import annotations

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module, metadata
from importlib.util import find_spec
from inspect import cleandoc
from pathlib import Path

from cyclopts import App, CycloptsError, UnknownCommandError

from contracts.errors import ChildError, DependencyError, NeurrateError, UserError
from contracts.selection_text import shown
from neurrate.output import OutputFailedError
from neurrate.process import HANDLER, run_process, stopped
from neurrate.verbs import GROUPS, VERBS, Verb

EXIT_OK = 0

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""Errors of a write, which name no file: no room on the disk, for this user, for one file."""

HELP = """Narrate, live and in English, what an animal sees, from its spikes.

For example:

    neurrate demo
    neurrate stream nwb session.nwb
    neurrate run --config configs/daemon/replay.toml
    neurrate watch

Exit codes: 0 done or asked to stop; 1 an internal error, with a traceback; 2 something in what you
typed or in your files; 3 something that must be installed or running is missing; 130 or 143 stopped
by you before the result was complete.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after ``neurrate``; those of this process if omitted.

    Returns
    -------
    code : int
        0 done or asked to stop, 1 an internal error, 2 the user's input, 3 a missing dependency,
        130 or 143 stopped before the result was complete.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _check_daemon_package()
        code = build_app(words)(
            words, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except KeyboardInterrupt:
        return stopped(words)
    except UnknownCommandError as error:
        return _refuse(_unknown_verb(error), UserError.exit_code)
    except CycloptsError as error:
        return _refuse(str(error).strip(), UserError.exit_code)
    except (UserError, DependencyError, ChildError) as error:
        return _refuse(str(error), error.exit_code)
    except OutputFailedError:
        return EXIT_OK
    except OSError as error:
        if error.errno in FULL:
            reason = os.strerror(error.errno).lower()
            return _refuse(
                f"Cannot write {error.filename or 'a file'}: {reason}. Make room, or name a folder "
                "on another disk.",
                UserError.exit_code,
            )
        if error.filename is None:
            return _internal_error()
        reason = (error.strerror or type(error).__name__).lower()
        return _refuse(
            f"Cannot use {error.filename}: {reason}. Name another path, or change what is there.",
            UserError.exit_code,
        )
    except Exception as error:
        if HANDLER.number:  # a library has turned control-C into another error, as imports in C do
            return stopped(words)
        missing = _missing_package(error)
        if missing:
            from daemon.service.distributions import (
                what_brings,
            )  # once `daemon` is known to be ours

            remedy = f"Install it: python -m pip install {what_brings(missing)}"
            return _refuse(
                f"The Python package {missing!r} is not installed. {remedy}",
                DependencyError.exit_code,
            )
        return _internal_error()
    return code if isinstance(code, int) else EXIT_OK


def build_app(words: Sequence[str] = (), *, is_whole: bool = False) -> App:
    """Return the command's tree.

    The verb that `words` names is imported; every other one is a line in a list, unless it
    `is_whole`, as the reference needs it.
    """
    app = App(
        name="neurrate",
        help=HELP,
        help_format="markdown",
        version=_version,
        suppress_keyboard_interrupt=False,  # control-C is a request to stop: `main` returns 0
    )
    first, second = [*words, "", ""][:2]
    _add(app, VERBS, named=None if is_whole else first)
    for name, (summary, verbs) in GROUPS.items():
        group = App(name=name, help=summary, version_flags=())
        named = second if name == first else ""
        _add(group, verbs, named=None if is_whole else named)
        app.command(group)
    return app


def _check_daemon_package() -> None:
    """Refuse an environment in which ``daemon`` is another package.

    The wheel of python-daemon installs a package of the same name. It either comes first on the
    path, or was unpacked over ours in the same folder, where its ``daemon/daemon.py`` shows it.

    Raises
    ------
    DependencyError
        If the package that would be imported is not Neurrate's, or is a mixture.
    """
    spec = find_spec("daemon")
    folder = Path(spec.origin or "").parent if spec else Path()
    if not (folder / "bin_ring.py").is_file() or (folder / "daemon.py").exists():
        raise DependencyError(
            f"The Python package 'daemon' in {folder} is not Neurrate's: python-daemon installs "
            "one of the same name. Install Neurrate in an environment without python-daemon."
        )


def _add(app: App, verbs: dict[str, Verb], *, named: str | None) -> None:
    """Add verbs; import the one that is named, all for None."""
    for name, verb in verbs.items():
        if named in {None, name}:
            module, _, function_name = verb.target.partition(":")
            function = getattr(import_module(f"neurrate.{module}"), function_name)
            app.command(function, name=name, help_epilogue=_examples(function.__doc__ or ""))
        else:
            app.command(f"neurrate.{verb.target}", name=name, help=verb.summary)


def _examples(docstring: str) -> str:
    """Return the section "Examples", which the library leaves out of its help."""
    section = re.search(
        r"^Examples\n-{8}\n(.*?)(?=^\S[^\n]*\n---|\Z)",
        cleandoc(docstring),
        re.MULTILINE | re.DOTALL,
    )
    return f"For example:\n\n{section[1]}" if section else ""


def _version() -> str:
    return metadata.version("neurrate")


def _internal_error() -> int:
    _flush_logs()
    traceback.print_exc()
    return NeurrateError.exit_code


def _refuse(message: str, code: int) -> int:
    _flush_logs()
    lines = "\n".join(shown(line) for line in message.split("\n"))
    print(f"neurrate: error: {lines}", file=sys.stderr)
    return code


def _flush_logs() -> None:
    """Write the log lines that led to an error before the error."""
    for handler in logging.getLogger().handlers:
        handler.flush()


def _unknown_verb(error: UnknownCommandError) -> str:
    """Say which verbs there are; the library's own text would import every one of them."""
    path = tuple(error.command_chain or ())
    known = GROUPS[path[0]][1] if path and path[0] in GROUPS else {**VERBS, **GROUPS}
    unknown = (error.unused_tokens or ["nothing"])[0]
    nearest = get_close_matches(unknown, known, n=1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    where = " ".join(("neurrate", *path))
    return f"{where} has no verb {unknown!r}.{hint} It has {', '.join(sorted(known))}."


def _missing_package(error: BaseException) -> str | None:
    """Return the name of the foreign package whose absence caused an error, if that is why."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ModuleNotFoundError) and cause.name:
            package = cause.name.partition(".")[0]
            return None if package in OUR_PACKAGES else package
        cause = cause.__cause__
    return None


OUR_PACKAGES = frozenset(
    {
        "contracts",
        "daemon",
        "encoder_export",
        "encoder_training",
        "evaluation",
        "neurrate",
        "peer_guard",
        "simulation",
        "stream_sources",
        "subscribers",
    }
)


if __name__ == "__main__":
    sys.exit(run_process(sys.argv[1:]))
