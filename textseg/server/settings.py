"""How the server behaves: addresses, tokens, limits."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from ..checks import between, check, option, validate, whole
from ..errors import InputError

_SECONDS = between(0, 86400, "(]", "seconds above 0, up to 86400")


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
    port: int = option(8300, whole(0, 65535))
    tokens: tuple[str, ...] = ()
    queue: int = option(16, whole(1, 10_000), "requests")
    workers: int = option(2, whole(1, 64), "threads")
    threads: int = option(0, whole(0, 1024), "threads")
    batch: int = option(1, whole(1, 256), "requests")
    scenes: int = option(4, whole(1, 1000), "images")
    max_upload: int = option(32 * 2**20, whole(1024, 2**31), "bytes")
    max_pixels: int = option(16_000_000, whole(1, 64_000_000), "pixels")
    head_seconds: float = option(10.0, _SECONDS, "seconds")
    body_seconds: float = option(60.0, _SECONDS, "seconds")
    send_seconds: float = option(60.0, _SECONDS, "seconds")
    time_limit: float = option(300.0, _SECONDS, "seconds")
    keep_seconds: float = option(600.0, _SECONDS, "seconds")
    keep_bytes: int = option(2**28, whole(0, 2**40), "bytes")
    max_jobs: int = option(256, whole(1, 100_000), "jobs")
    grace: float = option(30.0, _SECONDS, "seconds")
    studio: bool = True

    def __post_init__(self) -> None:
        validate(self)
        listed = isinstance(self.tokens, (tuple, list)) and all(
            isinstance(token, str) for token in self.tokens
        )
        # Values of tokens stay out of messages, which may be logged.
        check("tokens", type(self.tokens), "a tuple of texts", listed)
        object.__setattr__(self, "tokens", tuple(self.tokens))
        for token in self.tokens:
            if not re.fullmatch(r"[!-~]{16,512}", token):
                raise InputError(
                    "tokens must be 16 to 512 visible ASCII characters each, got one of "
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
