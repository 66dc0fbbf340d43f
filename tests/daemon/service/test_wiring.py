"""Wiring: what the user got wrong is found before the first spike, all of it."""

from __future__ import annotations

import os
import re
import socket
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import zmq

from contracts.clock import HostClock
from contracts.errors import ManifestError, SettingsError, UserError
from contracts.manifest import Manifest
from contracts.population import Population
from daemon.service import memory, wiring
from daemon.service.memory import check_populations, make_ring
from daemon.service.settings import NarratorSettings, Settings
from daemon.service.wiring import (
    load_bundle,
    resolve,
    window_spec,
    wire,
    worker_arguments,
)
from daemon.worker.client import WorkerClient
from daemon.worker.narrator_client import InlineClient
from evaluation.latency.process_usage import worker_of
from tests.support.daemon_components import Context, StubEncoder
from tests.support.wait_until import wait_until

RETRIEVAL: dict[str, Any] = {"backend": "retrieval", "mode": "sequential"}


@pytest.fixture
def no_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wire a stub in place of ONNX Runtime, which would refuse the graph that is none."""

    def encoder(manifest: Manifest, chosen: object, **_: object) -> StubEncoder:
        return StubEncoder(HostClock())

    monkeypatch.setattr(wiring, "load_encoder", encoder)


def settings(bundle: Path | None, **groups: Any) -> Settings:
    return Settings.model_validate(
        {
            "encoder": {"bundle": bundle},
            "publish": {"bind": "tcp://127.0.0.1:*"},
            "http": {"port": 0},
            "narrator": RETRIEVAL,
            **groups,
        }
    )


def test_missing_bundle_says_how_to_make_one():
    """Without a bundle there is nothing to run; the message has both commands."""
    with pytest.raises(SettingsError, match=r"encoder\.bundle .* got none\. Add --bundle"):
        load_bundle(settings(None))


def test_folder_that_is_no_bundle_is_reported(tmp_path: Path):
    """An empty folder is named."""
    with pytest.raises(ManifestError, match=str(tmp_path)):
        load_bundle(settings(tmp_path))


def test_every_unknown_population_is_reported(stub_bundle: Manifest):
    """All of them in one error, each with its name and what there is."""
    wrong = settings(
        stub_bundle.folder, populations={"a": "area:V9", "ok": "all", "b": "cell_type:None"}
    )
    with pytest.raises(SettingsError) as raised:
        resolve(wrong, stub_bundle)
    assert [problem.partition(":")[0] for problem in raised.value.problems] == [
        "populations.a",
        "populations.b",
    ]


def test_selections_keep_their_order(stub_bundle: Manifest):
    """Populations are narrated in the order of the settings."""
    chosen, _ = resolve(
        settings(stub_bundle.folder, populations={"z": "silent", "a": "all", "s": "shuffled"}),
        stub_bundle,
    )
    assert [(selection.name, selection.kind) for selection in chosen] == [
        ("z", "silent"),
        ("a", "units"),
        ("s", "shuffled"),
    ]


def test_ring_must_hold_a_window_and_two_batches(stub_bundle: Manifest):
    """One bin too few is refused with what is needed; just enough is taken."""
    # The window has 20 bins of 120 Hz.
    assert resolve(settings(None, ring={"capacity_s": 260 / 120}), stub_bundle)[1] == 260
    with pytest.raises(SettingsError, match=r"ring\.capacity_s .* 2\.167 s in all, got 2\.15 s"):
        resolve(settings(None, ring={"capacity_s": 2.15}), stub_bundle)


def test_ring_larger_than_the_memory_is_refused(
    stub_bundle: Manifest, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """Its size is reported before anything was started; just small enough is taken."""
    spec = stub_bundle.window_spec  # 20 bins of 120 Hz; 12 units
    size_bytes = (1200 + 20) * 12 * 2
    monkeypatch.setattr(memory, "memory_bytes", lambda: 4 * size_bytes)
    assert make_ring(spec, 12, 1200).capacity_bins == 1200
    monkeypatch.setattr(memory, "memory_bytes", lambda: 4 * size_bytes - 1)
    wrong = settings(stub_bundle.folder, narrator={**RETRIEVAL, "mode": "worker"})
    monkeypatch.setattr(wiring, "load_encoder", lambda *_, **__: StubEncoder(HostClock()))
    with pytest.raises(SettingsError, match=r"ring\.capacity_s .* 12 units are 29,280 bytes"):
        wire(wrong, context, HostClock())
    assert worker_of(os.getpid()) is None


@pytest.mark.parametrize(
    ("mode", "handover", "n_windows", "n_at_once", "n_rows", "remedy"),
    [
        (
            "worker",
            {"capacity": 500},
            3,
            64,
            64 + 2 * 64,
            "fewer or a smaller handover.populations",
        ),
        (
            "worker",
            {"populations": 30},
            3,
            30,
            64 + 4 * 30,
            "fewer or a smaller handover.populations",
        ),
        (
            "worker",
            {"policy": "all", "capacity": 50},
            52,
            100,
            64,
            "fewer or a smaller handover.capacity",
        ),
        ("sequential", {"populations": 30}, 2, 100, 64, "fewer"),
        ("sequential", {"policy": "all", "capacity": 50}, 2, 100, 64, "fewer"),
    ],
)
def test_populations_larger_than_the_memory_are_refused(
    stub_bundle: Manifest,
    context: Context,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    handover: dict[str, Any],
    n_windows: int,
    n_at_once: int,
    n_rows: int,
    remedy: str,
):
    """Patches of all windows that may be held, and the encoders' input; just enough is taken."""
    names = {f"p{number}": "all" for number in range(100)}
    many = settings(
        stub_bundle.folder,
        populations=names,
        handover=handover,
        narrator={**RETRIEVAL, "mode": mode},
    )
    chosen, _ = resolve(many, stub_bundle)
    patch_bytes = n_at_once * 64 * 64 * 4
    input_bytes = (n_rows * (20 + 1) + 100) * 12 * 4  # 20 bins, 12 units
    size_bytes = n_windows * patch_bytes + input_bytes
    monkeypatch.setattr(memory, "memory_bytes", lambda: 4 * size_bytes)
    check_populations(many, stub_bundle, chosen)
    monkeypatch.setattr(memory, "memory_bytes", lambda: 4 * size_bytes - 4)
    with pytest.raises(SettingsError, match=f"up to {n_windows} windows are .* Use {remedy}$"):
        wire(many, context, HostClock())
    assert worker_of(os.getpid()) is None


@pytest.mark.usefixtures("no_graph")
def test_last_component_that_cannot_be_built_takes_the_worker_along(
    stub_bundle: Manifest, context: Context, monkeypatch: pytest.MonkeyPatch
):
    """Even the fast loop itself: no process, socket or thread of those before it is left."""

    def broken(**_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(wiring, "FastLoop", broken)
    endpoint = f"tcp://127.0.0.1:{free_port()}"
    wrong = settings(
        stub_bundle.folder,
        narrator={**RETRIEVAL, "mode": "worker"},
        publish={"bind": endpoint},
    )
    with pytest.raises(MemoryError):
        wire(wrong, context, HostClock())
    assert worker_of(os.getpid()) is None
    wait_until(partial(is_free, endpoint, context), what="a free port")


def test_stride_of_the_settings_wins(stub_bundle: Manifest):
    """The manifest's stride unless the settings give one; the rest is the bundle's."""
    spec = stub_bundle.window_spec
    assert window_spec(settings(None), stub_bundle) == spec
    assert window_spec(settings(None, window={"stride_bins": 3}), stub_bundle) == replace(
        spec, stride_bins=3
    )


def test_all_problems_come_in_one_error(stub_bundle: Manifest, context: Context):
    """Two wrong populations and a small ring: three problems, and nothing was started."""
    wrong = settings(
        stub_bundle.folder,
        populations={"a": "area:V9", "b": "area:V8"},
        ring={"capacity_s": 2.0},
    )
    with pytest.raises(SettingsError) as raised:
        wire(wrong, context, HostClock())
    assert len(raised.value.problems) == 3
    assert "ring.capacity_s" in raised.value.problems[2]


def test_graph_that_is_none_is_reported(stub_bundle: Manifest, context: Context):
    """A bundle whose network cannot be read stops start-up with the bundle's name."""
    with pytest.raises(ManifestError, match=re.escape(str(stub_bundle.folder))):
        wire(settings(stub_bundle.folder), context, HostClock())


@pytest.mark.usefixtures("no_graph")
def test_modes_choose_the_client(stub_bundle: Manifest, context: Context):
    """Sequential narrates in this process; worker in its own."""
    for mode, kind in (("sequential", InlineClient), ("worker", WorkerClient)):
        components = wire(
            settings(stub_bundle.folder, narrator={"backend": "retrieval", "mode": mode}),
            context,
            HostClock(),
        )
        assert isinstance(components.narrator_client, kind)
        assert components.loop._encode_every_window is (mode == "sequential")
        assert components.http is not None
        components.narrator_client.close(deadline_s=5)
        components.http.close()
        components.publisher.close()
        components.loop.ingest.close()


@pytest.mark.parametrize("policy", ["newest", "all"])
@pytest.mark.parametrize("joins", [None, True, False])
def test_windows_join_where_the_rate_counts(stub_bundle: Manifest, policy: str, joins: bool | None):
    """Where the settings say nothing the hand-over decides; else they decide."""
    chosen = settings(stub_bundle.folder, narrator={"joins": joins}, handover={"policy": policy})
    arguments = worker_arguments(chosen, stub_bundle)
    narrator = NarratorSettings.model_validate_json(arguments[arguments.index("--narrator") + 1])
    assert narrator.joins is (policy == "all" if joins is None else joins)


@pytest.mark.usefixtures("no_graph")
def test_component_that_cannot_be_built_takes_the_others_along(
    stub_bundle: Manifest, context: Context, tmp_path: Path
):
    """A taken HTTP port, or a narrator that cannot load, leaves no socket, thread or process."""
    from tests.support.tiny_bundle import write_stub_bundle

    bare = write_stub_bundle(tmp_path / "bare")
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        endpoint = f"tcp://127.0.0.1:{free_port()}"
        for wrong in (
            settings(stub_bundle.folder, http={"port": taken}, publish={"bind": endpoint}),
            settings(bare.folder, publish={"bind": endpoint}),
        ):
            with pytest.raises(UserError):
                wire(wrong, context, HostClock())
            wait_until(partial(is_free, endpoint, context), what="a free port")
    assert worker_of(os.getpid()) is None


def is_free(endpoint: str, context: Context) -> bool:
    """Whether an address can be bound; a closed socket lets go of it a moment later."""
    with context.socket(zmq.XPUB) as probe:
        try:
            probe.bind(endpoint)
        except zmq.ZMQError:
            return False
        return True


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def test_real_bundle_is_wired(tiny_bundle: Manifest, context: Context):
    """The exported graph, four selections: the loop is there, and not settled yet."""
    populations = {"all": "all", "VISp": "area:VISp", "PV": "cell_type:PV", "s": "shuffled"}
    components = wire(
        settings(tiny_bundle.folder, populations=populations, http={"enabled": False}),
        context,
        HostClock(),
    )
    assert components.http is None
    assert isinstance(components.manifest.population, Population)
    assert not components.loop.ingest.is_settled
    assert components.loop.is_idle
    components.publisher.close()
    components.loop.ingest.close()
