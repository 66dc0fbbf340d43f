"""``neurrate dashboard``: the web page of a running daemon."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter, validators

from contracts.atomic_files import check_writable
from neurrate.arguments import JsonOption, Seconds
from neurrate.key_options import PLAIN, ConnectOptions
from neurrate.stop_request import stop_request
from neurrate.tables import write_json

PortNumber = Annotated[int, Parameter(validator=validators.Number(gte=0, lte=65_535))]

POLL_S = 0.05


def dashboard(
    *,
    connect: str = "tcp://127.0.0.1:5571",
    host: str = "127.0.0.1",
    port: PortNumber = 8571,
    token_file: Path | None = None,
    name: tuple[str, ...] = (),
    frames: Path | None = None,
    open_browser: Annotated[bool, Parameter(name="--open", negative=())] = False,
    seconds: Seconds | None = None,
    stop_with_stdin: bool = False,
    address_file: Path | None = None,
    json: JsonOption = None,
    access: ConnectOptions = PLAIN,
) -> None:
    """Serve the web page that shows what the daemon narrates.

    It listens to the daemon alone and cannot slow it down. Many pages may be open, and each can go
    back an hour. Control-C ends it.

    Examples
    --------
        neurrate dashboard
        neurrate dashboard --open --frames session_movies/
        neurrate dashboard --connect tcp://127.0.0.1:6000 --port 8080
        neurrate dashboard --host 0.0.0.0 --token-file ~/.config/neurrate-token
        neurrate dashboard --connect tcp://rig:5571 --key laptop --server-key rig

    Parameters
    ----------
    connect
        Where the daemon publishes.
    host
        Where the page is served. Other machines can reach it only elsewhere than on loopback, which
        needs a token.
    port
        0 for any free one.
    token_file
        File of mode 0600 that holds a token; made with a random one if it is not there. A page is
        opened with ?token=... once, and a program sends Authorization: Bearer.
    name
        Name under which browsers ask for the page, such as rig3.lab; may be given several times.
    frames
        Folder of the frames that are shown, as for 'neurrate prepare'. The page shows the one that
        is on the screen.
    open_browser
        Open the page in this machine's browser.
    seconds
        Stop after so many seconds.
    stop_with_stdin
        Stop when standard input closes, as it does when the program that started this one dies.
    address_file
        Write the page's address to this file, as JSON, once it is served.
    json
        Write how many messages were received to this file at the end, as JSON.
    """
    import time
    import webbrowser

    from daemon.service.logs import configure_logging
    from simulation.captions import parse
    from subscribers.dashboard.server import DashboardOptions, DashboardServer

    check_writable(address_file)
    check_writable(json)
    configure_logging()
    [keys] = access.keys_for([connect])
    options = DashboardOptions(connect, host, port, token_file, name, frames, keys)
    deadline_s = None if seconds is None else time.monotonic() + seconds
    with (
        stop_request(stop_with_stdin) as should_stop,
        DashboardServer(options, kinds_of=lambda text: parse(text).kinds) as server,
    ):
        write_json(address_file, {"page": server.address})
        print(f"The page of {connect} is on {server.address}; Ctrl-C ends it.", flush=True)
        if open_browser:
            webbrowser.open(server.address)
        while not should_stop() and (deadline_s is None or time.monotonic() < deadline_s):
            time.sleep(POLL_S)
    write_json(json, {"page": server.address, "messages": server.state.n_received})
