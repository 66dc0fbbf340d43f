"""``neurrate demo``: a recording through the whole daemon, in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from contracts.clock import HostClock
from contracts.errors import UserError
from neurrate.arguments import JsonOption
from neurrate.children import Child, read_json
from neurrate.replaying import speed_factor
from neurrate.summary import account, print_summary
from neurrate.tables import check_writable, write_json

if TYPE_CHECKING:
    from contracts.population import Population

DEMO_SECONDS = 30.0
"""Length of the recording that the demo makes when it is given none."""

MAX_AREAS = 6
"""Areas narrated side by side, those with the most units: more do not fit on a screen."""

NOISE_TOKENS = 12
"""Words of the model with random weights: enough to see that it speaks."""

START_S = 60.0
"""How long a process may take to say where it listens."""

END_S = 120.0
"""How long the daemon may take to end once the source has."""


def demo(
    *,
    recording: str | None = None,
    speed: str = "1",
    start: float | None = None,
    seconds: float | None = None,
    units: str = "all",
    bundle: Path | None = None,
    model: str | None = None,
    populations: str | None = None,
    plain: bool = False,
    json: JsonOption = None,
) -> int:
    """Replay a recording through the whole daemon and show what it says.

    Source and daemon (with its narrator) run as processes of their own and talk over tcp
    loopback. Without --recording a synthetic one is made; without --bundle and --model an
    encoder and a small LLaVA with random weights, whose sentences are noise.

    For example:

        neurrate demo
        neurrate demo --recording session.nwb --seconds 60 --speed 2
        neurrate demo --recording kilosort4/ --speed max --json demo.json
        neurrate demo --recording session.nwb --bundle bundle/ --model llava-hf/llava-1.5-7b-hf

    Parameters
    ----------
    recording
        NWB file or URL, or the folder of a sorting.
    speed
        Session seconds per second, or max: as fast as the daemon takes it, lossless.
    start
        First session second to send.
    seconds
        Session seconds to send; all if omitted.
    units
        Conditions that a unit must meet, as for 'neurrate stream nwb'.
    bundle
        Encoder to use instead of random weights; its units are sent, in its order.
    model
        Folder or hub id of a vision-language model to use instead of the small one.
    populations
        What to narrate, separated by commas; all, the areas, shuffled and silent if omitted.
    plain
        One line for each narration; always so where standard output is no terminal.
    json
        Write the summary to this file, as JSON.

    Raises
    ------
    UserError
        If no population is named.
    """
    check_writable(json)
    if populations is not None and not populations.strip(" ,"):
        raise UserError("--populations must name at least one, such as all or VISp.")
    speed_factor(speed)
    with TemporaryDirectory(prefix="neurrate-demo-") as folder:
        play = _Play(Path(folder), recording, units, start, seconds, speed)
        population = play.prepare(bundle, model)
        summary = play.run(populations or ",".join(_populations(population)), plain=plain)
    numbers = {"recording": play.recording, "speed": speed, **account_of(summary)}
    print_summary(summary["daemon"], spikes_sent=summary["source"]["n_spikes"])
    print(_sentence(numbers))
    write_json(json, numbers)
    return 0 if summary["was_stopped"] or is_whole(numbers) else 1


def account_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the demo's numbers: what the source sent beside what the daemon made of it."""
    return account(summary["daemon"], spikes_sent=summary["source"]["n_spikes"])


def is_whole(numbers: dict[str, Any]) -> bool:
    """Whether every spike sent was received and has its bin."""
    return bool(numbers["spikes_sent"] == numbers["spikes_received"] == numbers["spikes_binned"])


def _sentence(numbers: dict[str, Any]) -> str:
    if is_whole(numbers):
        return (
            f"Every one of {numbers['spikes_sent']:,} spikes sent was received and binned; "
            f"{numbers['windows_narrated']:,} of {numbers['windows']:,} windows were narrated."
        )
    lost = numbers["spikes_sent"] - numbers["spikes_binned"]
    return f"{lost:,} of {numbers['spikes_sent']:,} spikes sent have no bin; the table says why."


def _populations(population: Population) -> list[str]:
    """Everything, each area that is a part of it, and the controls that can be."""
    areas = [area for area in population.areas if population.select(area).n_units < len(population)]
    controls = ["shuffled", "silent"] if len(population) > 1 else ["silent"]
    return ["all", *areas[:MAX_AREAS], *controls]


class _Play:
    """One demo: its folder, its recording, its processes."""

    def __init__(
        self,
        folder: Path,
        recording: str | None,
        units: str,
        start: float | None,
        seconds: float | None,
        speed: str,
    ) -> None:
        self.folder = folder
        self.recording = recording or str(folder / "recording.nwb")
        self._is_ours = recording is None
        self._units = units
        self._start = start
        self._seconds = seconds
        self._speed = speed
        self._bundle = folder / "bundle"
        self._model = str(folder / "tiny-llava")
        self._has_random_model = False

    def prepare(self, bundle: Path | None, model: str | None) -> Population:
        """Make what was not given; return the units that will be sent."""
        from contracts.manifest import load_manifest

        if self._is_ours:
            from simulation.recording import write_recording

            _say(f"making a synthetic recording of {DEMO_SECONDS:.0f} s")
            write_recording(Path(self.recording), seconds=DEMO_SECONDS)
        if bundle is not None:
            manifest = load_manifest(bundle)
            self._bundle = bundle
            self._model = model or manifest.model.language_model.model_id
        else:
            self._make_bundle(model)
            manifest = load_manifest(self._bundle)
        return manifest.population

    def _make_bundle(self, model: str | None) -> None:
        """Make an encoder for the recording, and a language model if there is none."""
        from neurrate.bundle_command import write_random_bundle
        from stream_sources.open_source import open_source

        source = open_source(
            self.recording, units=self._units, start_s=self._start, duration_s=self._seconds
        )
        if model is None:
            from simulation.tiny_llava import write_random_llava

            _say("making a small LLaVA with random weights: its sentences are noise")
            write_random_llava(Path(self._model))
            self._has_random_model = True
        _say(f"making an encoder with random weights for {len(source.population)} units")
        self._model = model or self._model
        try:
            write_random_bundle(
                source,
                self._bundle,
                model=self._model,
                size="tiny" if model is None else "paper",
                command="neurrate demo",
            )
        finally:
            source.close()

    def run(self, populations: str, *, plain: bool) -> dict[str, Any]:
        """Start the source and the daemon, show the narrations, wait for both to end."""
        from daemon.signals import StopRequest, stop_on_signal
        from neurrate.watch_command import follow
        from neurrate.watch_state import WatchState

        stop, clock = StopRequest(), HostClock()
        with ExitStack() as children, stop_on_signal(stop, force=_give_up):
            source = children.enter_context(Child("source", self._source(), self.folder))
            spikes = source.addresses(deadline_s=START_S)["spikes"]
            daemon = children.enter_context(
                Child("daemon", self._daemon(spikes, populations), self.folder)
            )
            publish = daemon.addresses(deadline_s=START_S)["publish"]
            _say(f"spikes on {spikes}, narrations on {publish}; Ctrl-C ends the demo")
            state = WatchState(publish, clock.now_ns())

            def is_over() -> bool:
                if stop.is_made:
                    source.ask_to_stop()
                    daemon.ask_to_stop()
                source.check()
                return not daemon.is_running

            follow(state, clock, plain=plain, is_over=is_over)
            daemon.wait(deadline_s=END_S)
            source.wait(deadline_s=END_S)
        return {
            "source": read_json(self.folder / "source.json"),
            "daemon": read_json(self.folder / "daemon.json"),
            "was_stopped": stop.is_made,
        }

    def _source(self) -> Sequence[str]:
        """Return the source's words."""
        from stream_sources.open_source import kind_of

        words = ["stream", kind_of(self.recording), self.recording]
        words += ["--units-from", str(self._bundle), "--bind", "tcp://127.0.0.1:*"]
        words += ["--speed", self._speed]
        words += [] if self._start is None else ["--start", str(self._start)]
        words += [] if self._seconds is None else ["--seconds", str(self._seconds)]
        return words

    def _daemon(self, spikes: str, populations: str) -> Sequence[str]:
        words = ["run", "--bundle", str(self._bundle), "--model", self._model]
        words += ["--connect", spikes, "--publish", "tcp://127.0.0.1:*"]
        words += ["--populations", populations, "--set", "http.port=0", "--exit-at-end"]
        if self._has_random_model:
            words += ["--set", f"narrator.max_new_tokens={NOISE_TOKENS}"]
        return words


def _give_up() -> None:
    """Leave at once, but not without the children and the folder.

    Raises
    ------
    KeyboardInterrupt
        Always.
    """
    raise KeyboardInterrupt


def _say(message: str) -> None:
    print(f"demo: {message}", file=sys.stderr, flush=True)
