"""How the server behaves: addresses, tokens, limits."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ..errors import InputError

_WHOLE = {
    "port": (0, 65535),
    "queue": (1, 10_000),
    "workers": (1, 64),
    "threads": (0, 1024),
    "batch": (1, 256),
    "scenes": (1, 1000),
    "max_upload": (1024, 2**31),
    "max_pixels": (1, 64_000_000),
    "keep_bytes": (0, 2**40),
    "max_jobs": (1, 100_000),
}
_SECONDS = ("head_seconds", "body_seconds", "send_seconds", "time_limit", "keep_seconds", "grace")


@dataclass(frozen=True)
class ServerOptions:
    """How the server behaves.

    Attributes:
        host: address to listen on; any but a loopback address needs a token.
        port: to listen on; 0 takes a free one.
        tokens: what callers must show one of, at least 16 visible ASCII characters each; none
            leaves the server open to this machine.
        queue: requests taken in at a time beyond those being worked on; more get status 429.
        workers: threads that work; they take turns on the model and share everything else.
        threads: of the numerical libraries in each worker; 0 leaves them as many as elsewhere. The
            last bits of a score depend on it.
        batch: requests whose noise predictions are made in one call of the model; above 1 the last
            bits of a score depend on who else asks.
        scenes: images whose predictions and colour kernels are kept for further queries.
        max_upload: bytes of a request's body.
        max_pixels: pixels of an image.
        head_seconds: time for a request's line and headers to arrive.
        body_seconds: time for a request's body to arrive.
        send_seconds: time for the caller to take one piece of the answer.
        time_limit: seconds from a request's arrival to its answer.
        keep_seconds: how long a finished job's result can be fetched.
        keep_bytes: bytes of results kept; beyond them the oldest go.
        max_jobs: jobs kept; beyond them the oldest finished go.
        grace: seconds that running work is given when the server is told to stop.
        studio: mount the studio at "/" where it is installed.

    Raises:
        InputError: a value breaks its rule.
    """

    host: str = "127.0.0.1"
    port: int = 8300
    tokens: tuple[str, ...] = ()
    queue: int = 16
    workers: int = 2
    threads: int = 0
    batch: int = 1
    scenes: int = 4
    max_upload: int = 32 * 2**20
    max_pixels: int = 16_000_000
    head_seconds: float = 10.0
    body_seconds: float = 60.0
    send_seconds: float = 60.0
    time_limit: float = 300.0
    keep_seconds: float = 600.0
    keep_bytes: int = 2**28
    max_jobs: int = 256
    grace: float = 30.0
    studio: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))
        for name, (low, high) in _WHOLE.items():
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
                raise InputError(f"{name} must be a whole number from {low} to {high}, got {value}")
        for name in _SECONDS:
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not 0 < value <= 86400:
                raise InputError(f"{name} must be seconds above 0, up to 86400, got {value!r}")
        for token in self.tokens:
            # Its value stays out of the message, which may be logged.
            if not re.fullmatch(r"[!-~]{16,512}", token):
                raise InputError(
                    "token must be 16 to 512 visible ASCII characters, got one of "
                    f"{len(token)} characters or with others"
                )
        if not self.tokens and not is_loopback(self.host):
            raise InputError(
                f"host must be a loopback address when there is no token, got {self.host!r}; "
                "give --token or set TEXTSEG_TOKEN"
            )


def is_loopback(host: str) -> bool:
    """Whether a host name or address means this machine only.

    >>> is_loopback("127.0.0.1"), is_loopback("::1"), is_loopback("0.0.0.0"), is_loopback("")
    (True, True, False, False)
    """
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
