"""Fetching a URL that a stranger may have chosen: public addresses only, limits on everything."""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import quote, urljoin, urlsplit

from ._version import __version__
from .errors import ImageError

MAX_BYTES = 64 * 2**20
MAX_SECONDS = 30.0
MAX_REDIRECTS = 3

_REDIRECTS = (301, 302, 303, 307, 308)
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(
    url: str,
    *,
    max_bytes: int = MAX_BYTES,
    max_seconds: float = MAX_SECONDS,
    max_redirects: int = MAX_REDIRECTS,
) -> bytes:
    """Body of an http(s) URL.

    Every address its host resolves to must be public, and the connection goes to one of the
    addresses that were checked, so that a second look-up cannot lead elsewhere. Each redirect is
    checked the same way. Proxies in the environment are not used: they would look up the name
    again.

    Args:
        max_bytes: longest body.
        max_seconds: time for the whole of it, redirects included.
        max_redirects: redirects followed.

    Raises:
        ImageError: the URL is malformed, leads to an address that is not public, does not answer
            with status 200, or breaks a limit.
    """
    deadline = time.monotonic() + max_seconds
    for _ in range(max_redirects + 1):
        answer = _get(url, deadline, max_bytes)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise ImageError(f"URL must redirect at most {max_redirects} times, got more at {url!r}")


def is_public(address: str) -> bool:
    """Whether an IP address is one of the public internet's.

    >>> is_public("127.0.0.1"), is_public("::ffff:10.0.0.1"), is_public("169.254.169.254")
    (False, False, False)
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo and ip.teredo[1])
        if ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner:
            return is_public(str(inner))
    return ip.is_global and not ip.is_multicast and not ip.is_reserved


def _public_addresses(host: str, port: int, url: str) -> list[str]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise ImageError(f"URL's host cannot be found: {host!r}") from error
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for address in addresses:
        if not is_public(address):
            raise ImageError(
                f"URL must lead to a public address, got {address} for {host!r} in {url!r}"
            )
    return addresses


def _get(url: str, deadline: float, max_bytes: int) -> bytes | str:
    """The body, or where a redirect leads."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise ImageError(f"URL is malformed: {error}: {url!r}") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ImageError(f"URL must be http or https with a host, got {url!r}")
    if parts.username is not None or parts.password is not None:
        raise ImageError(f"URL must not carry a user name or password, got one for {host!r}")
    secure = parts.scheme == "https"
    port = port or (443 if secure else 80)
    addresses = _public_addresses(host, port, url)
    target = quote(parts.path or "/", safe="/%:@!$&'()*+,;=~-._")
    if parts.query:
        target += "?" + quote(parts.query, safe="/%:@!$&'()*+,;=~-._?")
    try:
        with contextlib.ExitStack() as stack:
            sock = stack.enter_context(_connect(addresses, port, deadline))
            if secure:
                sock = stack.enter_context(
                    ssl.create_default_context().wrap_socket(
                        sock, server_hostname=host, do_handshake_on_connect=False
                    )
                )
            # A reply that trickles in byte by byte never runs into the socket's own time limit.
            watchdog = threading.Timer(max(0.0, deadline - time.monotonic()), _shut, (sock,))
            watchdog.daemon = True
            stack.callback(watchdog.cancel)
            watchdog.start()
            if isinstance(sock, ssl.SSLSocket):
                sock.do_handshake()
            return _exchange(sock, host, port, target, secure, max_bytes, url)
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, ImageError):
            raise
        if time.monotonic() >= deadline:
            raise ImageError(f"URL took too long to answer: {url!r}") from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageError(f"URL cannot be fetched: {reason}: {url!r}") from error


def _connect(addresses: list[str], port: int, deadline: float) -> socket.socket:
    failure: OSError = OSError("no address")
    for address in addresses:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            raise TimeoutError("timed out")
        try:
            return socket.create_connection((address, port), timeout=remaining)
        except OSError as error:
            failure = error
    raise failure


def _shut(sock: socket.socket) -> None:
    # The plain socket's method: TLS's own would first have to say goodbye.
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _exchange(
    sock: socket.socket,
    host: str,
    port: int,
    target: str,
    secure: bool,
    max_bytes: int,
    url: str,
) -> bytes | str:
    connection = http.client.HTTPConnection(host, port)
    # http.client names a port other than 80; with TLS the usual one is 443.
    connection.default_port = 443 if secure else 80
    connection.sock = sock
    headers = {"User-Agent": f"textseg/{__version__}", "Accept": "image/*"}
    connection.request("GET", target, headers=headers | {"Accept-Encoding": "identity"})
    with connection.getresponse() as response:
        location = response.headers.get("Location")
        if response.status in _REDIRECTS and location:
            return location
        if response.status != 200:
            raise ImageError(f"URL must answer with status 200, got {response.status} from {url!r}")
        if response.length is not None and response.length > max_bytes:
            raise ImageError(
                f"URL must hold at most {max_bytes} bytes, got {response.length} from {url!r}"
            )
        body = response.read(max_bytes + 1)
        if len(body) > max_bytes:
            raise ImageError(f"URL must hold at most {max_bytes} bytes, got more from {url!r}")
        if response.length:
            raise ImageError(f"URL's body ended {response.length} bytes early: {url!r}")
        return body
