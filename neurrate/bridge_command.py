"""``neurrate bridge``: what the daemon publishes, passed on to other systems."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from contracts.atomic_files import check_writable
from contracts.clock import NS_PER_S, HostClock
from contracts.errors import UserError
from neurrate.arguments import JsonOption, Seconds
from neurrate.key_options import ConnectOptions, KeyOption
from neurrate.stop_request import stop_request
from neurrate.tables import cell, print_table, write_json


def lsl(
    *,
    connect: str = "tcp://127.0.0.1:5571",
    messages: bool = False,
    insecure: bool = False,
    key: KeyOption = None,
    server_key: Annotated[str | None, Parameter(name="--server-key")] = None,
    seconds: Seconds | None = None,
    stop_with_stdin: bool = False,
    json: JsonOption = None,
) -> None:
    """Pass narrations and triggers on as markers of the Lab Streaming Layer.

    Two streams of type Markers: neurrate-narrations, each with population and text, and
    neurrate-triggers, each the name of a rule. Triggers of dry rules are not passed on.

    Examples
    --------
        neurrate bridge lsl --insecure
        neurrate bridge lsl --insecure --messages --seconds 3600 --json markers.json

    Parameters
    ----------
    connect
        Where the daemon publishes.
    messages
        Whole messages as JSON in place of short texts.
    insecure
        Must be given: LSL listens on all interfaces of this machine, and encrypts nothing.
    key
        Pair of keys to connect to the daemon with: a name of 'neurrate keys new', or a file.
    server_key
        Public key of the daemon: a name or a file.
    seconds
        Stop after so many seconds.
    stop_with_stdin
        Stop when standard input closes.
    json
        Write what was passed on to this file, as JSON.

    Raises
    ------
    UserError
        If --insecure is not given.
    """
    from daemon.service.logs import configure_logging
    from subscribers.lsl import forward

    if not insecure:
        raise UserError(
            "LSL listens on all interfaces of this machine, and nothing on it is encrypted. "
            "Add --insecure if the network is yours."
        )
    configure_logging()
    check_writable(json)
    servers = () if server_key is None else (server_key,)
    [keys] = ConnectOptions(key, servers, insecure=True).keys_for([connect])
    clock = HostClock()
    deadline_ns = None if seconds is None else clock.now_ns() + round(seconds * NS_PER_S)
    with stop_request(stop_with_stdin) as should_stop:
        totals = forward(
            connect,
            clock,
            as_json=messages,
            keys=keys,
            should_stop=lambda: (
                should_stop() or (deadline_ns is not None and clock.now_ns() >= deadline_ns)
            ),
        )
    numbers = {"connect": connect, **asdict(totals)}
    write_json(json, numbers)
    print_table("Passed on", [{"": key, "n": cell(value)} for key, value in numbers.items()])
