"""``neurrate demo``: a recording through the whole daemon, in processes of their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from contracts.atomic_files import check_writable
from contracts.clock import HostClock
from contracts.errors import UserError
from contracts.temporary_folder import TemporaryFolder
from daemon.service.logs import configure_logging
from daemon.service.settings_loader import named_populations
from evaluation.demo import play
from evaluation.demo_plan import DemoRequest, prepare
from neurrate.arguments import JsonOption, Seconds
from neurrate.summary import account, print_scores, print_summary
from neurrate.tables import write_json
from stream_sources.speed import speed_factor
from subscribers.watch.report import save_picture, scores_of


def demo(
    *,
    recording: str | None = None,
    speed: str = "1",
    start: float | None = None,
    seconds: Seconds | None = None,
    units: str = "all",
    bundle: Path | None = None,
    model: str | None = None,
    populations: str | None = None,
    triggers: Path | None = None,
    dashboard: bool = True,
    plain: bool = False,
    svg: Path | None = None,
    json: JsonOption = None,
) -> int:
    """Replay a recording through the whole daemon and show the narrations.

    Source and daemon (with its narrator) run as processes of their own and talk over tcp
    loopback. Without --recording a simulated animal is shown street scenes that neither its
    encoder nor its small LLaVA was trained on, and each sentence is scored against the true
    caption. With --recording and without --bundle encoder and LLaVA have random weights, whose
    text is noise. While it runs, its page can be opened in a browser; the address is printed.

    For example:

        neurrate demo
        neurrate demo --no-dashboard
        neurrate demo --seconds 120 --populations all,VISl,PV,silent
        neurrate demo --triggers configs/triggers/example.toml
        neurrate demo --recording session.nwb --seconds 60 --speed 2
        neurrate demo --recording kilosort4/ --speed max --json demo.json
        neurrate demo --recording session.nwb --bundle bundle/ --model llava-hf/llava-1.5-7b-hf

    Parameters
    ----------
    recording
        NWB file or URL, or the folder of a sorting. Where it has captions, they are the truth.
    speed
        Session seconds per second, or max: as fast as the daemon takes it, lossless.
    start
        First session second to send.
    seconds
        Session seconds to send; all if omitted, and 40 of a simulated session.
    units
        Conditions that a unit must meet, as for 'neurrate stream nwb', where the encoder is made
        here.
    bundle
        Encoder to use; its units are sent, in its order.
    model
        Folder or hub id of a vision-language model to use instead of the small one.
    populations
        What to narrate, separated by commas, in the order in which it is shown; names with a comma
        in quotation marks: area:"layer 2/3, deep". If omitted: all,
        areas, cell types and a control of the simulated animal; all, the areas, shuffled and
        silent of a recording.
    triggers
        Rules that trigger, as docs/triggers.md describes them; 'neurrate watch' shows them too. If
        omitted, those of the simulated animal: a car, a pedestrian, the word dark.
    dashboard
        Serve the page of 'neurrate dashboard' while the demo runs.
    plain
        One line for each narration; always so where standard output is no terminal, or one that
        cannot be drawn on (TERM=dumb).
    svg
        Write the view at the end to this file, as a picture.
    json
        Write the summary and the scores to this file, as JSON.

    Raises
    ------
    UserError
        If no population is named, or there is no such file of rules.
    """
    check_writable(json)
    check_writable(svg)
    configure_logging()
    named = {} if populations is None else _named(populations)
    speed_factor(speed)
    if triggers is not None and not triggers.is_file():
        raise UserError(f"--triggers must name a file of rules that exists, got {triggers}.")
    request = DemoRequest(
        recording, units, start, seconds, bundle, model, named, rules=triggers, speed=speed,
        with_frames=dashboard,
    )  # fmt: skip
    with TemporaryFolder("neurrate-demo-") as folder:
        plan = prepare(folder, request)
        result = play(plan, folder, plain=plain, has_page=dashboard)
    if svg is not None:
        save_picture(svg, result.watched, HostClock().now_ns(), title="neurrate demo")
    daemon, n_sent = dict(result.summary.daemon), result.summary.source["n_spikes"]
    print_summary(daemon, spikes_sent=n_sent)
    print_scores(result.watched)
    numbers = {
        "recording": plan.recording,
        "speed": speed,
        **account(daemon, spikes_sent=n_sent),
        "scores": scores_of(result.watched),
    }
    print(_sentence(numbers))
    write_json(json, numbers)
    return 0 if result.was_stopped or _is_whole(numbers) else 1


def _named(populations: str) -> dict[str, str]:
    named = named_populations(populations)
    if not named:
        raise UserError("--populations must name at least one, such as all or VISp.")
    return named


def _is_whole(numbers: dict[str, Any]) -> bool:
    """Whether every spike sent was received and has its bin."""
    return bool(numbers["spikes_sent"] == numbers["spikes_received"] == numbers["spikes_binned"])


def _sentence(numbers: dict[str, Any]) -> str:
    if _is_whole(numbers):
        return (
            f"Every one of {numbers['spikes_sent']:,} spikes sent was received and binned; "
            f"{numbers['windows_narrated']:,} of {numbers['windows']:,} windows were narrated."
        )
    lost = numbers["spikes_sent"] - numbers["spikes_binned"]
    return f"{lost:,} of {numbers['spikes_sent']:,} spikes sent have no bin; the table says why."
