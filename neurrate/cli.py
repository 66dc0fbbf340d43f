"""The command ``neurrate``: which verbs there are, and what an error looks like.

Verbs are named here and imported when they are used, so that ``--help`` loads nothing heavy.
"""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module, metadata
from inspect import cleandoc
from typing import NamedTuple

from cyclopts import App, CycloptsError, UnknownCommandError

from contracts.errors import ChildError, DependencyError, NeurrateError, UserError

EXIT_OK = 0

EXIT_UNFINISHED = 130
"""128 + SIGINT, as shells count, for a verb that makes something: what follows in ``a && b`` needs
it. A verb that serves until it is stopped ends with 0."""

MAKING = frozenset(
    {"bench", "bundle", "export", "learn", "prepare", "simulate", "train", "triggers"}
)
GOING_ON = frozenset({"learn", "prepare", "train"})

HELP = """Narrate, live and in English, what an animal sees, from its spikes.

For example:

    neurrate demo
    neurrate stream nwb session.nwb
    neurrate run --config configs/daemon/replay.toml
    neurrate watch

Exit codes: 0 done or asked to stop; 1 our fault, with a traceback; 2 something in what you
typed or in your files; 3 something that must be installed or running is not there; 130 stopped by
you before it was made.
"""


class Verb(NamedTuple):
    """One verb: where it is, and its line in the list."""

    target: str
    summary: str


VERBS = {
    "demo": Verb("neurrate.demo_command:demo", "Replay a recording through the whole daemon."),
    "run": Verb("neurrate.run_command:run", "Run the daemon: spikes in, narrations out."),
    "watch": Verb("neurrate.watch_command:watch", "Show narrations as they are published."),
    "learn": Verb("neurrate.learn_command:learn", "Make a bundle of a recording: all three below."),
    "prepare": Verb(
        "neurrate.prepare_command:prepare", "Make a data set of a recording and its frames."
    ),
    "train": Verb("neurrate.train_command:train", "Train an encoder on a data set, and judge it."),
    "export": Verb("neurrate.export_command:export", "Make a bundle of a trained encoder."),
    "doctor": Verb("neurrate.doctor_command:doctor", "Say what is installed and what is missing."),
    "inspect": Verb("neurrate.inspect_command:inspect", "Say what is in a recording or a bundle."),
}

GROUPS = {
    "stream": (
        "Send the spikes of a recording to the daemon.",
        {
            "nwb": Verb("neurrate.stream_command:nwb", "Replay an NWB file."),
            "sorting": Verb("neurrate.stream_command:sorting", "Replay a spike sorting."),
        },
    ),
    "config": (
        "Look at the settings.",
        {"show": Verb("neurrate.config_command:show", "Show each value and where it is from.")},
    ),
    "bundle": (
        "Make encoder bundles.",
        {
            "random": Verb("neurrate.bundle_command:random", "Make one with random weights."),
            "simulated": Verb(
                "neurrate.bundle_command:simulated", "Make that of the simulated animal."
            ),
        },
    ),
    "bench": (
        "Measure the daemon, all its processes running.",
        {
            "latency": Verb(
                "neurrate.bench_command:latency", "How late it is, by rate of windows."
            ),
            "soak": Verb("neurrate.bench_command:soak", "Whether it stays as it is for hours."),
        },
    ),
    "triggers": (
        "Try rules before they move anything.",
        {
            "score": Verb(
                "neurrate.triggers_command:score", "Score what rules fire at, on a recording."
            ),
        },
    ),
    "simulate": (
        "Make a world in which the truth is known.",
        {
            "recording": Verb("neurrate.simulate_command:recording", "Make a recording."),
            "session": Verb(
                "neurrate.simulate_command:session", "Make an animal that watches movies."
            ),
            "scenes": Verb("neurrate.simulate_command:scenes", "Draw street scenes on a page."),
            "llava": Verb("neurrate.simulate_command:llava", "Make a small LLaVA."),
            "train-llava": Verb(
                "neurrate.simulate_command:train_llava", "Train a small LLaVA that sees."
            ),
            "train-encoder": Verb(
                "neurrate.simulate_command:train_encoder", "Train the encoder of the animal."
            ),
            "train-probes": Verb(
                "neurrate.simulate_command:train_probes", "Train concept probes for that encoder."
            ),
            "score": Verb(
                "neurrate.score_command:score", "Score what is said of scenes that are known."
            ),
        },
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line.

    Parameters
    ----------
    argv : sequence of str, optional
        Words after ``neurrate``; those of this process if omitted.

    Returns
    -------
    code : int
        0 done or asked to stop, 1 our fault, 2 the user's input, 3 a missing dependency, 130
        stopped before what was to be made was there.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        code = build_app(words)(
            words, exit_on_error=False, print_error=False, result_action="return_value"
        )
    except KeyboardInterrupt:
        return _stopped(words)
    except UnknownCommandError as error:
        return _refuse(_unknown_verb(error), UserError.exit_code)
    except CycloptsError as error:
        return _refuse(str(error).strip(), UserError.exit_code)
    except (UserError, DependencyError, ChildError) as error:
        return _refuse(str(error), error.exit_code)
    except BrokenPipeError:  # whoever read our output has gone: nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_OK
    except OSError as error:
        if error.filename is None:
            return _our_fault()
        reason = (error.strerror or type(error).__name__).lower()
        return _refuse(
            f"Cannot use {error.filename}: {reason}. Name another path, or change what is there.",
            UserError.exit_code,
        )
    except Exception as error:
        missing = _missing_package(error)
        if missing:
            remedy = "Install it: python -m pip install"
            return _refuse(
                f"The Python package {missing!r} is not installed. {remedy} {missing}",
                DependencyError.exit_code,
            )
        return _our_fault()
    return code if isinstance(code, int) else EXIT_OK


def build_app(words: Sequence[str] = ()) -> App:
    """Return the command's tree.

    Parameters
    ----------
    words : sequence of str
        The command line. The verb that it names is imported; every other one is a line in a
        list.

    Returns
    -------
    app : cyclopts.App
    """
    app = App(
        name="neurrate",
        help=HELP,
        help_format="markdown",
        version=_version,
        suppress_keyboard_interrupt=False,  # control-C is a request to stop: `main` returns 0
    )
    first, second = [*words, "", ""][:2]
    _add(app, VERBS, named=first)
    for name, (summary, verbs) in GROUPS.items():
        group = App(name=name, help=summary, version_flags=())
        _add(group, verbs, named=second if name == first else "")
        app.command(group)
    return app


def _add(app: App, verbs: dict[str, Verb], *, named: str) -> None:
    for name, verb in verbs.items():
        if name == named:
            module, _, function_name = verb.target.partition(":")
            function = getattr(import_module(module), function_name)
            app.command(function, name=name, help_epilogue=_examples(function.__doc__ or ""))
        else:
            app.command(verb.target, name=name, help=verb.summary)


def _examples(docstring: str) -> str:
    """Return the section "Examples", which the library leaves out of its help."""
    found = re.search(
        r"^Examples\n-{8}\n(.*?)(?=^\S[^\n]*\n---|\Z)",
        cleandoc(docstring),
        re.MULTILINE | re.DOTALL,
    )
    return f"For example:\n\n{found[1]}" if found else ""


def _version() -> str:
    return metadata.version("neurrate")


def _stopped(words: Sequence[str]) -> int:
    verb = words[0] if words else ""
    if verb not in MAKING:
        return EXIT_OK
    goes_on = " Give the same command again: it goes on where it was." if verb in GOING_ON else ""
    print(f"neurrate: stopped before the end.{goes_on}", file=sys.stderr)
    return EXIT_UNFINISHED


def _our_fault() -> int:
    traceback.print_exc()
    return NeurrateError.exit_code


def _refuse(message: str, code: int) -> int:
    print(f"neurrate: error: {message}", file=sys.stderr)
    return code


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
        "simulation",
        "stream_sources",
        "subscribers",
    }
)


if __name__ == "__main__":
    sys.exit(main())
