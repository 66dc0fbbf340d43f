"""The settings of the daemon: frozen values in seconds, and nothing else.

No file is read here and nothing is started; `daemon.service.settings_loader` fills these models
from files, environment and command line. What belongs to the encoder (bins, units, patch grid)
stands in its manifest and not here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from contracts.address import exposure_problem, host_problem, leaves_machine
from contracts.selection_text import topic_names
from daemon.service.setting_types import (
    BindEndpoint,
    ConnectEndpoint,
    Cores,
    HttpUrl,
    Seconds,
    SettingsGroup,
    Texts,
    TorchDevice,
    several,
)

IMAGE_TOKEN = "<image>"
"""Where the patches go in a prompt (the special token of LLaVA-1.5's processor)."""

POPULATIONS = {"all": "all"}
"""One, of every unit."""

PAPER_PROMPT = "USER: <image>\nDescribe this scene in one sentence.\nASSISTANT:"
"""The prompt of NEURRATOR (arXiv 2606.18667), in LLaVA-1.5's chat form."""


class IngestSettings(SettingsGroup):
    """Where the spikes come from."""

    connect: Annotated[tuple[ConnectEndpoint, ...], *several("address")] = ("tcp://127.0.0.1:5570",)
    """ZeroMQ addresses of the sources, one for each publisher. On a command line or in the
    environment several are separated by commas. The default is where ``neurrate stream`` binds."""
    stream_timeout_s: Seconds = 2.0
    """Seconds of silence after which a stream is declared blind and windows go on without it.
    Sources send a batch at least once a second, even an empty one, so that two seconds are at
    least one lost batch and not a quiet animal."""
    population_timeout_s: Seconds = 10.0
    """Seconds after the first hello within which the streams must have announced every unit of
    the encoder. A run that should end with its streams (``service.exit_at_end``) then stops with
    exit code 2; any other waits, and ``/readyz`` names the units. Sources repeat their hello once
    a second."""
    missing_units: Literal["refuse", "mean"] = "refuse"
    """What to do about units of the encoder that no stream announces. ``refuse`` waits for them,
    see ``population_timeout_s``. ``mean`` begins without them: once every address of ``connect``
    has said hello and ``stream_timeout_s`` has brought no further stream, or after
    ``population_timeout_s``. The encoder gets them at their mean (z = 0); ``/readyz``, the metrics
    and every narration say how many. A unit that comes later is used from then on. A population
    none of whose units is sent is not narrated. Refused by default: an encoder without most of its
    units narrates noise."""
    extra_units: Literal["refuse", "ignore"] = "refuse"
    """What to do with a stream that has units which the encoder does not know: ``refuse`` drops
    its messages, and ``/readyz`` says why (at the start of a run with ``service.exit_at_end``:
    exit code 2); ``ignore`` counts the spikes of those units and leaves them out. Refused by
    default: such a stream usually belongs to another session than the bundle."""
    insecure: bool = False
    """Connect to sources on other machines without keys (``keys.sources``). False refuses it."""


class KeysSettings(SettingsGroup):
    """Keys of whom the daemon talks to; ``docs/security.md`` describes them."""

    own: str | None = None
    """The daemon's pair of keys: its name (``neurrate keys new NAME``), or the path of its
    ``NAME.key_secret``. Whoever subscribes then needs a pair too, whose public key is in the folder
    ``allowed`` beside it (``neurrate keys allow``), on this machine as well. None: no keys."""
    sources: Texts = ()
    """Public keys of the sources, names or paths, in the order of ``ingest.connect``; one for all
    of them if it is one, and ``none`` for a source without keys. Empty: none of them has keys."""


class RingSettings(SettingsGroup):
    """The ring buffer of binned spikes."""

    capacity_s: Annotated[float, Field(ge=2, le=3600)] = 10.0
    """Seconds of binned spikes that are kept, and so how far one probe may lag behind another.
    At least one window and two seconds; ten seconds of 400 units at 120 Hz take 1 MB."""


class WindowSettings(SettingsGroup):
    """How often a window is cut."""

    stride_bins: Annotated[int, Field(ge=1, le=100_000)] | None = None
    """Bins between the starts of two windows. None takes the stride in the bundle's manifest;
    larger values narrate less often."""


class EncoderSettings(SettingsGroup):
    """The compiled encoder."""

    bundle: Path | None = None
    """Folder of the bundle. None is refused by commands that need an encoder; there is no
    default, because a bundle belongs to one recording."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor threads of the encoder. One: the encoder shares the fast loop's core, and a
    second thread costs more in wake-ups than a small graph gains."""
    device: Literal["auto", "cpu", "cuda", "tensorrt"] = "auto"
    """``auto`` takes the first of TensorRT, CUDA and the CPU that works, and logs which and why;
    ``tensorrt``, ``cuda`` and ``cpu`` refuse to start where they do not."""


class NarratorSettings(SettingsGroup):
    """The language model, and the worker that owns it."""

    backend: Literal["llava", "vllm", "retrieval"] = "llava"
    """``llava`` generates sentences; ``vllm`` has servers generate them (``[vllm]``);
    ``retrieval`` repeats the caption of the nearest training frame, the baseline that a narration
    must beat."""
    model: str | None = None
    """Folder or hub id of the vision-language model. None takes ``language_model.model_id`` of
    the bundle's manifest, the model that the encoder was trained for."""
    features: Path | None = None
    """File of sparse features, ``sparse-features.safetensors`` of ``neurrate evaluate
    sparse-features``: each narration then has the three that stand out most. None: it has none."""
    feature_set: Literal["unique", "all"] = "unique"
    """Which of them may be named: those that are unique to a population, or ``all``."""
    prompt: str = PAPER_PROMPT
    """Text around the image tokens; ``<image>`` stands once. The default is the paper's."""
    max_new_tokens: Annotated[int, Field(ge=1, le=2048)] = 60
    """Tokens after which a narration is cut (status ``truncated``). One sentence takes about 20;
    each token costs a pass through the model."""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = "auto"
    """Number format of the model's weights. ``auto``: bfloat16 on a GPU, float32 on a CPU. The
    ``llava`` back-end refuses float16 and bfloat16 on a CPU."""
    device: TorchDevice = "auto"
    """``auto``, ``cpu``, ``cuda`` or ``cuda:1``. ``auto`` takes the first GPU, else the CPU."""
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    """Processor threads of the model on a CPU. One leaves the other cores to the fast loop, and
    gives the same words on every machine: with more, sums are taken in another order. A model of
    billions of weights gains from more."""
    cores: Cores = ()
    """Processor cores of the worker. Empty: all that the daemon was started with."""
    mode: Literal["worker", "sequential"] = "worker"
    """``worker``: a process of its own narrates while the fast loop continues. ``sequential``: one
    process does one after the other; the same narrations, for debugging."""
    deadline_s: Seconds | None = None
    """Seconds from a window's start in the narrator after which its sentences are cut at a word
    (status ``truncated``). None lets each come to its own end."""
    max_rows: Annotated[int, Field(ge=1, le=1024)] = 16
    """Sentences that are generated at once; the populations of a window beyond it take turns. More
    cost memory for each, and time once the processor is full."""
    joins: bool | None = None
    """Whether a window may begin while another is being narrated, as long as ``max_rows`` has room.
    More windows are narrated a second, and each is older by half or more when it ends
    (docs/decisions/0015-narrator-engine.md). None joins under ``handover.policy = "all"``, where
    the rate counts, and not under ``newest``, where the age does."""
    nice: Annotated[int, Field(ge=0, le=19)] = 5
    """Niceness of the worker (man 2 nice), so that it gives way to the fast loop where the two
    share a core. Zero does not."""
    batch_timeout_s: Seconds = 120.0
    """Seconds that the worker may take for one window before it is killed and restarted. Far
    above any healthy one, also the first one on a cold CPU. A worker that was stopped (SIGSTOP)
    is no such case: its window is given up after three seconds, and it is waited for."""
    failures_before_unready: Annotated[int, Field(ge=1, le=1000)] = 3
    """Failed windows in a row after which ``/readyz`` answers 503."""

    @field_validator("prompt")
    @classmethod
    def _one_image(cls, value: str) -> str:
        if value.count(IMAGE_TOKEN) != 1:
            raise ValueError(f"must hold {IMAGE_TOKEN} exactly once")
        return value


class VllmSettings(SettingsGroup):
    """The servers of the vllm narrator; docs/vllm.md describes how to start one."""

    urls: Annotated[tuple[HttpUrl, ...], *several("URL")] = ("http://127.0.0.1:8000",)
    """Servers of one and the same model. Narrations go to them in turn; one that fails rests, and
    comes back. On a command line or in the environment several are separated by commas. The
    default is where ``vllm serve`` listens."""
    model: str | None = None
    """Name under which the servers serve the model. None takes the model's own, as ``vllm serve``
    does."""
    key_variable: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] = "VLLM_API_KEY"
    """Environment variable that holds the servers' key, which is never logged. A variable that is
    not set sends none. The default is the one that ``vllm serve`` reads."""
    retries: Annotated[int, Field(ge=0, le=100)] = 3
    """Times that a sentence is begun anew, elsewhere if there is another server, after a server
    has failed it."""
    connect_timeout_s: Seconds = 2.0
    """Seconds within which a server must take a connection. Two are ample in one building."""
    silence_timeout_s: Seconds = 20.0
    """Seconds without a token after which a server has failed a sentence. Above the first token of
    a server with a long queue; with all tries below ``narrator.batch_timeout_s``."""
    start_timeout_s: Seconds = 120.0
    """The same for the first sentence of a server, which may compile kernels: 13 seconds
    for a tiny model on a CPU."""


class HandoverSettings(SettingsGroup):
    """Which windows the narrator gets."""

    policy: Literal["newest", "all"] = "newest"
    """``newest``, for live narration: a window that waits gives way to a newer one. ``all``, for
    replays: none gives way, and a source that loses nothing (``--speed max``) is slowed to the
    narrator's pace. A live source cannot be slowed and would lose batches. A narrator that dies
    or is stopped costs the window that it has, under either."""
    every: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    """Hand over every so many windows, those whose number on the grid it divides, so that a replay
    picks the same ones. Triggers see every window that is encoded. One hands over all of them."""
    capacity: Annotated[int, Field(ge=1, le=10_000)] = 16
    """Windows that may wait under ``all`` before the source is held. Each takes the memory of its
    patches: at 24 x 24 x 1024, 2.4 MB a population."""
    populations: Annotated[int, Field(ge=1, le=10_000)] = 64
    """Populations narrated of one window under ``newest``. Where there are more they take turns, in
    the order of the settings: of 200, each is narrated of every fourth window that the narrator
    takes. Triggers see all of theirs in every window. 64 go through the encoder at once."""


class TriggersSettings(SettingsGroup):
    """Triggers on concepts and words."""

    rules: Path | None = None
    """TOML file of rules and sinks, as ``docs/triggers.md`` describes it. None: no triggers."""
    dry_run: bool = False
    """Evaluate and publish every rule, with ``"dry_run": true``, and send it to no other
    sink: to try rules on a recording. False leaves it to each rule."""

    @field_validator("rules", mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        if value == "":  # as a path it would be the working directory
            raise ValueError("must name a file, or be none for no triggers")
        return value


class PublishSettings(SettingsGroup):
    """Where narrations go out."""

    bind: BindEndpoint = "tcp://127.0.0.1:5571"
    """ZeroMQ address that subscribers connect to. Another one than loopback needs ``keys.own``."""
    queue_messages: Annotated[int, Field(ge=1, le=1_000_000)] = 1000
    """Messages kept for each subscriber that reads too slowly; beyond it that subscriber loses
    messages and no other. A thousand is minutes of narration."""
    insecure: bool = False
    """Allow a bind that other machines can reach without keys, unencrypted. False refuses it."""


class HttpSettings(SettingsGroup):
    """Metrics and health over HTTP."""

    host: str = "127.0.0.1"
    """Address, name or interface to listen on. It is read only; loopback unless a Prometheus
    elsewhere asks, which needs ``token_file``."""
    port: Annotated[int, Field(ge=0, le=65_535)] = 9571
    """Port to listen on. Zero takes any free port, which is logged."""
    enabled: bool = True
    """Whether to listen at all."""
    token_file: Path | None = None
    """File of mode 0600 with the token that every request must carry (``Authorization: Bearer``),
    16 characters or more. Not encrypted on its way. None: no token, on loopback only."""
    insecure: bool = False
    """Allow a host that other machines can reach without a token. False refuses it."""

    @model_validator(mode="after")
    def _token_off_loopback(self) -> HttpSettings:
        may_listen = not self.enabled or self.insecure or self.token_file is not None
        if not may_listen and (problem := host_problem(self.host)):
            raise ValueError(
                f"host must be a loopback address, got {self.host!r}, which {problem}, and there "
                "is no token. Use 127.0.0.1, name a token's file (http.token_file), or set "
                "http.insecure = true on a network that you trust"
            )
        return self


class LogSettings(SettingsGroup):
    """What is logged, and how it looks."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """Least severity that is written. INFO is one line for each narration and one a minute."""
    format: Literal["auto", "text", "json"] = "auto"
    """``text`` for people, ``json`` for one object a line. ``auto``: text on a terminal."""


class ServiceSettings(SettingsGroup):
    """The life of the process."""

    shutdown_s: Annotated[float, Field(ge=0, le=600)] = 10.0
    """Seconds from the first signal to the end. What has not been narrated by then is
    dropped and counted; zero drops it at once."""
    cores: Cores = ()
    """Processor cores of the daemon, its encoder included; the worker has its own
    (``narrator.cores``). On a rig's machine: one or two that nothing else uses. Empty leaves them
    to the system."""
    exit_at_end: bool = False
    """Stop once every stream has ended and its windows are narrated: for replays. False waits
    for the next stream."""


class Settings(SettingsGroup):
    """Every setting of the daemon."""

    ingest: IngestSettings = IngestSettings()
    keys: KeysSettings = KeysSettings()
    ring: RingSettings = RingSettings()
    window: WindowSettings = WindowSettings()
    encoder: EncoderSettings = EncoderSettings()
    populations: Annotated[dict[str, str], Field(min_length=1)] = POPULATIONS
    """What to narrate: a name for each set of units. Narrations are published under
    ``narration.<name>``; letters that a topic cannot hold are replaced there. A set is ``all``,
    ``shuffled`` or ``silent`` (the two controls), ``area:VISp``, ``cell_type:PV``,
    ``probe:probeA``, ``unit:950951`` or ``ids:1|2|3``. A name in the recording may be quoted, with
    JSON's escapes: ``V1 = 'area:"Primary visual area, layer 2/3"'``. The table is one value: a
    stronger layer replaces it as a whole."""
    handover: HandoverSettings = HandoverSettings()
    narrator: NarratorSettings = NarratorSettings()
    vllm: VllmSettings = VllmSettings()
    triggers: TriggersSettings = TriggersSettings()
    publish: PublishSettings = PublishSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    service: ServiceSettings = ServiceSettings()

    @model_validator(mode="after")
    def _keys_off_loopback(self) -> Settings:
        publish, ingest, sources = self.publish, self.ingest, self.keys.sources
        is_open = self.keys.own is None and not publish.insecure
        if is_open and (problem := exposure_problem(publish.bind)):
            raise ValueError(
                f"publish.bind must be a loopback address, got {publish.bind!r}, which {problem}, "
                "and there are no keys. Use tcp://127.0.0.1:5571, name keys (keys.own), or set "
                "publish.insecure = true on a network that you trust"
            )
        keys = sources * len(ingest.connect) if len(sources) == 1 else sources
        of_address = [*keys, *["none"] * len(ingest.connect)]
        for address, key in zip(ingest.connect, of_address, strict=False):
            if key == "none" and not ingest.insecure and leaves_machine(address):
                raise ValueError(
                    f"ingest.connect must lead to this machine, got {address!r}, for which there "
                    "is no key. Name the source's key (keys.sources), or set "
                    "ingest.insecure = true on a network that you trust"
                )
        return self

    @property
    def is_sequential(self) -> bool:
        """Whether each window is narrated before the next, in one process."""
        return self.narrator.mode == "sequential"

    @property
    def encodes_every_window(self) -> bool:
        """Whether no window gives way to a newer one."""
        return self.is_sequential or self.handover.policy == "all"

    @field_validator("populations")
    @classmethod
    def _topics(cls, value: dict[str, str]) -> dict[str, str]:
        if "" in value:
            raise ValueError(f"names must not be empty, got '' for {value['']!r}")
        return dict(zip(topic_names(value), value.values(), strict=True))
