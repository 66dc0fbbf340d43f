"""``neurrate run``: the daemon."""

from __future__ import annotations

from pathlib import Path

from contracts.atomic_files import check_writable
from daemon.service.settings_loader import named_populations, settings_from
from neurrate.arguments import ConfigOption, JsonOption, SetOption
from neurrate.summary import print_summary
from neurrate.tables import write_json


def run(
    *,
    config: ConfigOption = None,
    bundle: Path | None = None,
    connect: tuple[str, ...] = (),
    publish: str | None = None,
    populations: str | None = None,
    narrator: str | None = None,
    model: str | None = None,
    key: str | None = None,
    server_key: tuple[str, ...] = (),
    insecure: bool = False,
    exit_at_end: bool = False,
    stop_with_stdin: bool = False,
    set_: SetOption = (),
    address_file: Path | None = None,
    json: JsonOption = None,
) -> None:
    """Run the daemon: spikes in, narrations out.

    It loads the bundle and the narrator first, then listens to the sources. Ctrl-C stops it
    gently; a second one at once. The named options are short for --set.

    Examples
    --------
        neurrate run --bundle bundle/ --model llava-hf/llava-1.5-7b-hf
        neurrate run --config configs/daemon/replay.toml --bundle bundle/
        neurrate run --bundle bundle/ --populations all,VISp,LGd,shuffled,silent
        neurrate run --bundle bundle/ --connect tcp://rig:5570 --key daemon --server-key rig
        neurrate run --bundle bundle/ --set ring.capacity_s=20 --set narrator.mode=sequential

    Parameters
    ----------
    config
        TOML file; docs/settings.md has every key.
    bundle
        The encoder (encoder.bundle).
    connect
        Address of a source; may be given several times (ingest.connect).
    publish
        Address to publish narrations on (publish.bind).
    populations
        What to narrate, separated by commas; each name is also the set: all, VISp, PV, shuffled,
        ids:1|2|3. A name with a comma in quotation marks: area:"layer 2/3, deep".
    narrator
        llava, vllm or retrieval (narrator.backend).
    model
        Folder or hub id of the vision-language model (narrator.model).
    key
        Pair of keys: subscribers then need one too, and to be on the list beside it (keys.own).
    server_key
        Public key of a source; one for all, or one for each address (keys.sources).
    insecure
        Allow addresses of and on other machines without keys or a token (publish.insecure,
        ingest.insecure, http.insecure).
    exit_at_end
        Stop once every stream has ended and been narrated (service.exit_at_end).
    stop_with_stdin
        Stop when standard input closes, as it does when the program that started this one dies.
    set_
        One setting, as key=value; may be given several times.
    address_file
        Write the addresses to this file, as JSON, once they are bound.
    json
        Write the summary to this file, as JSON.
    """
    check_writable(json)
    check_writable(address_file)
    named: dict[str, object] = {
        "encoder.bundle": None if bundle is None else str(bundle),
        "ingest.connect": list(connect) or None,
        "publish.bind": publish,
        "populations": None if populations is None else named_populations(populations),
        "narrator.backend": narrator,
        "narrator.model": model,
        "keys.own": key,
        "keys.sources": list(server_key) or None,
        "publish.insecure": insecure or None,
        "ingest.insecure": insecure or None,
        "http.insecure": insecure or None,
        "service.exit_at_end": exit_at_end or None,
    }
    given = {key: value for key, value in named.items() if value is not None}
    settings = settings_from(config, set_, given).settings

    from daemon.service import signals
    from daemon.service.logs import configure_logging
    from daemon.service.service import Service

    configure_logging(settings.log.level, settings.log.format)
    stop = signals.StopRequest()
    if stop_with_stdin:
        signals.stop_with_stdin(stop)
    service = Service(
        settings, stop=stop, on_bound=lambda addresses: write_json(address_file, addresses)
    )
    summary = service.run()
    write_json(json, summary)
    with signals.bounded_end(stop):
        print_summary(summary)
