"""Who is answered: hosts, origins, tokens; and what every answer says to the browser."""

from __future__ import annotations

import pytest

from contracts.errors import UserError
from subscribers.dashboard.access import read_token
from subscribers.dashboard.server import DashboardOptions, DashboardServer
from tests.support.dashboards import fed_dashboard, token_file

PATHS = ("/", "/events", "/history?start=0&stop=1", "/tiles/full/0", "/static/main.js", "/health")
TOKEN = "t" * 40


@pytest.fixture
def dashboard(context):
    with fed_dashboard(context) as dashboard:
        yield dashboard


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8571", "127.0.0.1.evil.example", "10.0.0.7", "", "a b"]
)
def test_other_names_are_refused(dashboard, host):
    """A name that is made to mean this machine is not ours: DNS rebinding reads nothing."""
    for path in PATHS:
        assert dashboard.get(path, headers={"Host": host})[0] in {400, 421}, path


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1:8571", "[::1]:3"])
def test_names_of_loopback_are_answered(dashboard, host):
    """At any port: a tunnel has another one."""
    assert dashboard.get("/", headers={"Host": host})[0] == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors"},
    ],
)
def test_other_sites_read_nothing(dashboard, headers):
    """Not the page, the events or the history; and no header invites them."""
    for path in PATHS:
        status, found, body = dashboard.get(path, headers=headers)
        assert (status, body) == (403, b"Another site may not read this one.\n"), path
        assert "access-control-allow-origin" not in found


def test_a_link_from_another_site_opens_the_page(dashboard):
    """The page alone, by navigation; what it shows it asks for itself."""
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert dashboard.get("/", headers=headers)[0] == 200
    assert dashboard.get("/history?start=0&stop=1", headers=headers)[0] == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
def test_nothing_can_be_changed(dashboard, method):
    """Only GET and HEAD are answered."""
    assert dashboard.get("/", method=method)[0] == 405


@pytest.mark.parametrize("path", [*PATHS[:1], *PATHS[2:], "/nothing", "/frames/1/movie"])
def test_every_answer_has_a_policy(dashboard, path):
    """Nothing inline, nothing from elsewhere; errors too."""
    _, headers, _ = dashboard.get(path)
    policy = headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "*" not in policy
    assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "path",
    [
        "/static/../server.py",
        "/static/%2e%2e/server.py",
        "/static/..%2fserver.py",
        "/frames/0/../../etc/passwd",
        "/frames/0/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/tiles/full/99999999999999999999",
        "/tiles/full/-1",
        "/history?start=nan&stop=1",
        "/history?start=0&stop=1e300",
        "/history",
    ],
)
def test_odd_requests_get_nothing(dashboard, path):
    """No file but the page's, no number that is none."""
    assert dashboard.get(path)[0] in {400, 404}


def test_elsewhere_a_token_is_needed(context, tmp_path):
    """As bearer, or once in the address, which becomes a cookie that no other site can use."""
    path = token_file(tmp_path, TOKEN)
    with fed_dashboard(context, token_file=path, names=("rig3.lab",)) as dashboard:
        assert dashboard.get("/")[0] == 401
        assert dashboard.get("/events")[0] == 401
        assert dashboard.get("/?token=wrong")[0] == 401
        wrong = {"Authorization": f"Bearer {TOKEN}x"}
        assert dashboard.get("/", headers=wrong)[0] == 401
        right = {"Authorization": f"Bearer {TOKEN}"}
        for host in ("10.0.0.7:8571", "rig3.lab"):
            assert dashboard.get("/health", headers={**right, "Host": host})[0] == 200
        assert dashboard.get("/", headers={**right, "Host": "evil.example"})[0] == 421
        status, headers, _ = dashboard.get(f"/?token={TOKEN}&t=3")
        assert (status, headers["location"]) == (303, "/?t=3")
        assert "HttpOnly" in headers["set-cookie"]
        assert "SameSite=Strict" in headers["set-cookie"]
        cookie = headers["set-cookie"].partition(";")[0]
        assert dashboard.get("/health", headers={"Cookie": cookie})[0] == 200
        assert dashboard.get(f"//evil.example?token={TOKEN}")[1]["location"] == "/evil.example"


def test_a_token_is_made_for_you_alone(tmp_path):
    """A file that is not there; one that others can read, or that holds none, is refused."""
    path = tmp_path / "token"
    token = read_token(path)
    assert (len(token), path.stat().st_mode & 0o777) == (64, 0o600)
    assert read_token(path) == token
    with pytest.raises(UserError, match="chmod 600"):
        read_token(token_file(tmp_path, mode=0o644))
    with pytest.raises(UserError, match="must hold"):
        read_token(token_file(tmp_path, "short"))


def test_an_address_that_others_can_reach_needs_a_token():
    """It is said before anything is served."""
    with pytest.raises(UserError, match="--token-file"):
        DashboardServer(DashboardOptions("tcp://127.0.0.1:5571", host="0.0.0.0", port=0))
