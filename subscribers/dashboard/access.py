"""Who may ask, and what every answer says to the browser. No routes here.

A page in somebody's browser can send requests to this machine. Three things keep it from reading
what is served here:

* **Host**: on loopback only the names of loopback are answered. A name of the attacker's that
  resolves to 127.0.0.1 (DNS rebinding) is refused. Elsewhere numbers and the names that were given
  are answered, and a token is asked for as well.
* **Origin** and **Sec-Fetch-Site**: what another site asks for is refused, but for the page itself
  when somebody follows a link to it.
* **Content-Security-Policy**: scripts, styles, fonts and images of this server alone, nothing
  inline, no frames, no forms.

The token is that of a file of mode 0600. It comes as ``Authorization: Bearer``, or once as
``?token=``, which is answered with a cookie (``HttpOnly``, ``SameSite=Strict``) and the address
without it, so that it is neither in the history nor in a link that somebody shares.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
import secrets
from collections.abc import Iterable, Mapping
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlencode

from contracts.errors import UserError
from contracts.secret_file import check_secret

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "[::1]"})
COOKIE = "neurrate_token"
MIN_TOKEN = 32
"""Letters of a token: 128 bits as hex digits."""

HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; font-src 'self'; "
        b"img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
)

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::\d{1,5})?")
_TOKEN = re.compile(r"[A-Za-z0-9_-]+")


def read_token(path: Path) -> str:
    """Return the token of a file, which is made with a new one if it is not there.

    Raises
    ------
    UserError
        If others may read it, or what it holds is no token.
    """
    if not path.exists():
        path.touch(mode=0o600)
        path.chmod(0o600)
        path.write_text(secrets.token_hex(32) + "\n", encoding="ascii")
    check_secret(path, setting="--token-file")
    token = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(token) < MIN_TOKEN or not _TOKEN.fullmatch(token):
        raise UserError(
            f"--token-file {path} must hold one line of {MIN_TOKEN} or more letters, digits, _ and "
            "-. Remove it, and it is made with a random token."
        )
    return token


class AccessGuard:
    """Wraps an application: refuses what may not ask, and adds `HEADERS` to every answer.

    On loopback `token` may be empty. `names` are hosts that are answered beside numbers and the
    names of loopback; numbers are answered where there is a token.
    """

    def __init__(self, app: ASGIApp, *, token: str = "", names: Iterable[str] = ()) -> None:
        self._app = app
        self._token = token
        self._names = LOOPBACK_NAMES | {name.lower() for name in names}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *HEADERS]}
            await send(message)

        headers = _headers(scope)
        if refused := self._refusal(scope, headers):
            await _answer(send_with_headers, *refused)
        elif self._token and not self._has_token(headers):
            await self._ask_for_token(scope, send_with_headers)
        else:
            await self._app(scope, receive, send_with_headers)

    def _refusal(self, scope: Scope, headers: Mapping[str, str]) -> tuple[int, str] | None:
        """Return status and reason if a request is refused, whatever token it has."""
        if scope["method"] not in {"GET", "HEAD"}:
            return 405, "This server only answers GET."
        host = headers.get("host", "")
        if not self._is_known(host):
            return 421, "This server is not known by that name."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "Another site may not read this one."
        is_followed = headers.get("sec-fetch-mode") == "navigate" and scope["path"] == "/"
        if headers.get("sec-fetch-site") in {"cross-site", "same-site"} and not is_followed:
            return 403, "Another site may not read this one."
        return None

    def _is_known(self, host: str) -> bool:
        matched = _HOST.fullmatch(host)
        if matched is None:
            return False
        name = matched["name"].lower()
        if name in self._names:
            return True
        if not self._token:
            return False
        try:
            ipaddress.ip_address(name.strip("[]"))
        except ValueError:
            return False
        return True  # a number cannot be made to mean another machine

    def _has_token(self, headers: Mapping[str, str]) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and self._is_token(given.strip()):
            return True
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_token(cookie.value)

    def _is_token(self, given: str) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "replace"), self._token.encode())

    async def _ask_for_token(self, scope: Scope, send: Send) -> None:
        """Take the token of the address, or say that one is needed."""
        query = parse_qsl(scope.get("query_string", b"").decode("latin-1"))
        given = [value for name, value in query if name == "token"]
        if not (given and self._is_token(given[0])):
            reason = (
                "A token is needed: open this address with ?token=..., or send Authorization: "
                "Bearer. It is in the file that --token-file names."
            )
            await _answer(send, 401, reason, (b"www-authenticate", b"Bearer"))
            return
        rest = urlencode([(name, value) for name, value in query if name != "token"])
        cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
        # Never to another host, whatever the path: "//" would begin one.
        place = "/" + scope["path"].lstrip("/\\") + (f"?{rest}" if rest else "")
        where = (b"location", place.encode("ascii", "ignore"))
        await _answer(send, 303, "", where, (b"set-cookie", cookie.encode()))


def _headers(scope: Scope) -> dict[str, str]:
    """Return the headers by name; of one that comes twice, both, so that none is overlooked."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found


async def _answer(send: Send, status: int, reason: str, *headers: tuple[bytes, bytes]) -> None:
    body = reason.encode() + b"\n"
    plain = (b"content-type", b"text/plain; charset=utf-8")
    length = (b"content-length", str(len(body)).encode())
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [plain, length, (b"cache-control", b"no-store"), *headers],
        }
    )
    await send({"type": "http.response.body", "body": body})
