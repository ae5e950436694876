"""The library's verbs, done by a server that `textseg serve` runs elsewhere."""

from __future__ import annotations

import http.client
import io
import json
import os
import secrets
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import urlsplit

from ._version import __version__
from .checks import check_text
from .errors import (
    CancelledError,
    ImageError,
    InputError,
    ModelNotFoundError,
    ServerError,
    TextsegError,
)
from .options import (
    ContrastOptions,
    EditOptions,
    GenerateOptions,
    RefineOptions,
    spell_threshold,
)

if TYPE_CHECKING:
    import numpy as np
    from typing_extensions import Unpack

    from .arguments import EditArguments, GenerateArguments, OutpaintArguments, QueryArguments
    from .captioning import Caption
    from .clicks import Box, Point
    from .edits import Edit
    from .generation import Generation
    from .image import ImageLike
    from .masks import Segmentation
    from .progress import Progress


_ERRORS: dict[str, type[TextsegError]] = {
    "bad_image": ImageError,
    "bad_input": InputError,
    "cancelled": CancelledError,
    "no_such_model": ModelNotFoundError,
}
_ZIP, _JSON = "application/zip", "application/json"


class Client:
    """Segments, edits, generates and captions on a server.

    Results are those of the library, bit for bit: the same classes, from the same model. A call
    with `progress` runs as a job of the server, which stops when `progress` returns False.

    >>> client = Client("http://127.0.0.1:8300")                    # doctest: +SKIP
    >>> client.segment("park.jpg", "the dog").save("dog.png")       # doctest: +SKIP
    """

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __init__(
        self,
        url: str = "http://127.0.0.1:8300",
        token: str | None = None,
        *,
        timeout: float = 330.0,
        patience: float = 60.0,
    ) -> None:
        """
        Args:
            url: where the server answers, http or https.
            token: one of the server's tokens, if it wants one.
            timeout: seconds of silence after which an answer is given up.
            patience: seconds to go on trying while the server says it is busy.

        Raises:
            InputError: no http(s) URL, or a token with characters a header cannot hold.
        """
        parts = urlsplit(url) if isinstance(url, str) else None
        if parts is None or parts.scheme not in ("http", "https") or not parts.hostname:
            raise InputError(f"url must be http or https with a host, got {url!r}")
        if token is not None and not all("!" <= c <= "~" for c in token):
            raise InputError("token must hold visible ASCII characters only")
        self.url: str = url.rstrip("/")
        self._timeout, self._patience = timeout, patience
        # Jobs belong to this very client.
        self._headers = {
            "User-Agent": f"textseg/{__version__}",
            "X-Textseg-Session": secrets.token_hex(16),
        }
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        # A redirect would carry the token to wherever it points.
        self._opener = urllib.request.build_opener(_NoRedirect)

    def models(self) -> list[dict[str, Any]]:
        """What the server says of its models: name, family, device, calibrated options."""
        return json.loads(self._ask("GET", "/v1/models", _JSON))["models"]

    @overload
    def segment(
        self,
        image: ImageLike,
        query: str,
        *,
        contrast: ContrastOptions | None = None,
        refine: RefineOptions | None = None,
        allow_url: bool = False,
        **arguments: Unpack[QueryArguments],
    ) -> Segmentation: ...
    @overload
    def segment(
        self,
        image: ImageLike,
        query: Sequence[str],
        *,
        contrast: ContrastOptions | None = None,
        refine: RefineOptions | None = None,
        allow_url: bool = False,
        **arguments: Unpack[QueryArguments],
    ) -> list[Segmentation]: ...
    def segment(
        self,
        image: ImageLike,
        query: str | Sequence[str],
        *,
        contrast: ContrastOptions | None = None,
        refine: RefineOptions | None = None,
        caption: str | None = None,
        exclusive: bool = False,
        points: Sequence[Point] = (),
        boxes: Sequence[Box] = (),
        allow_url: bool = False,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> Segmentation | list[Segmentation]:
        """`textseg.segment` on the server.

        Args:
            image: anything `load_image` takes; a file is read here and sent.
            query, caption, exclusive, points, boxes, progress, **overrides: as for
                `Segmenter.query`.
            contrast, refine: whole options; the model's calibrated ones if None.
            allow_url: whether `image` may be a URL, which is fetched here.

        Raises:
            InputError, ImageError, CancelledError: as for the library.
            ServerError: the server cannot be reached, is too busy, wants a token, or failed.
        """
        from .clicks import check_boxes, check_points
        from .image import load_image
        from .masks import Segmentation

        data = _encoded(image, allow_url)
        queries = [query] if isinstance(query, str) else list(query)
        fields = [("query", text) for text in queries] + [("output", "npz")]
        fields += _given(caption=caption)
        fields += [("exclusive", "true" if exclusive else "false")]
        clicks = {"points": check_points(points), "boxes": check_boxes(boxes)}
        fields += [(name, json.dumps(given)) for name, given in clicks.items() if given]
        fields += _options(contrast, refine, overrides)
        files = self._run("/v1/segment", fields, {"image": data}, progress)
        pixels = load_image(data)
        results = [
            replace(Segmentation.from_bytes(files[f"{record['name']}.npz"]), image=pixels)
            for record in json.loads(files["results.json"])
        ]
        return results[0] if isinstance(query, str) else results

    def edit(
        self,
        image: ImageLike,
        query: str | None = None,
        prompt: str = "",
        *,
        mask: Segmentation | np.ndarray | None = None,
        method: str | None = None,
        style: ImageLike | None = None,
        options: EditOptions | None = None,
        patch: ImageLike | None = None,
        allow_url: bool = False,
        progress: Progress | None = None,
        **overrides: Unpack[EditArguments],
    ) -> Edit:
        """`textseg.edit` on the server; arguments and errors as there and in `segment`."""
        from .edits import Edit
        from .image import load_image
        from .masks import Segmentation
        from .saving import encode_picture

        data = _encoded(image, allow_url)
        files = {"image": data}
        segmentation = mask if isinstance(mask, Segmentation) else None
        if segmentation is not None:
            query, mask = query or segmentation.query, segmentation.mask
        if mask is not None:
            files["mask"] = encode_picture(_region(mask), ".png", {})
        for name, picture in (("patch", patch), ("style", style)):
            if picture is not None:
                files[name] = _encoded(picture, allow_url)
        fields = [("prompt", prompt), ("assess", "false")]
        fields += [("found", "true")] if segmentation is not None else []
        single: dict[str, Any] = dict(overrides)
        fields += _given(query=query, method=method, caption=single.pop("caption", None))
        fields += _options(options, single)
        found = self._run("/v1/edit", fields, files, progress)
        done = Edit.from_bytes(found["edit.npz"])
        return replace(
            done, source=load_image(data), segmentation=segmentation or done.segmentation
        )

    def outpaint(
        self,
        image: ImageLike,
        prompt: str = "",
        *,
        left: int | str = 0,
        right: int | str = 0,
        top: int | str = 0,
        bottom: int | str = 0,
        method: str | None = None,
        options: EditOptions | None = None,
        allow_url: bool = False,
        progress: Progress | None = None,
        **overrides: Unpack[OutpaintArguments],
    ) -> Edit:
        """`textseg.outpaint` on the server; arguments and errors as there and in `segment`."""
        from .edits import Edit
        from .image import load_image
        from .outpainting import NO_PART, Pads, on_white

        data = _encoded(image, allow_url)
        fields = [("prompt", prompt), ("assess", "false")]
        fields += _given(left=left, right=right, top=top, bottom=bottom, method=method)
        given = {} if options is None else asdict(options)
        fields += _options({k: v for k, v in given.items() if k not in NO_PART}, overrides)
        found = self._run("/v1/outpaint", fields, {"image": data}, progress)
        done = Edit.from_bytes(found["edit.npz"])
        pads = Pads(*(done.extended or (0, 0, 0, 0)))
        return replace(done, source=on_white(load_image(data), pads)[0])

    @overload
    def generate(
        self,
        prompt: str,
        *,
        count: None = None,
        options: GenerateOptions | None = None,
        progress: Progress | None = None,
        **overrides: Unpack[GenerateArguments],
    ) -> Generation: ...
    @overload
    def generate(
        self,
        prompt: str,
        *,
        count: int,
        options: GenerateOptions | None = None,
        progress: Progress | None = None,
        **overrides: Unpack[GenerateArguments],
    ) -> list[Generation]: ...
    @overload
    def generate(
        self,
        prompt: Sequence[str],
        *,
        count: int | None = None,
        options: GenerateOptions | None = None,
        progress: Progress | None = None,
        **overrides: Unpack[GenerateArguments],
    ) -> list[Generation]: ...
    def generate(
        self,
        prompt: str | Sequence[str],
        *,
        count: int | None = None,
        options: GenerateOptions | None = None,
        progress: Progress | None = None,
        **overrides: Any,
    ) -> Generation | list[Generation]:
        """`textseg.generate` on the server; arguments and errors as there and in `segment`."""
        from .generation import Generation
        from .image import load_image

        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        fields = [("prompt", text) for text in prompts] + [("count", str(count or 1))]
        files = self._run("/v1/generate", fields + _options(options, overrides), {}, progress)
        made = [
            Generation(
                image=load_image(files[f"{number}.png"]),
                prompt=record["prompt"],
                options=GenerateOptions(**record["options"]),
                model=record["model"],
                version=record["textseg"],
                notes=tuple(record["notes"]),
            )
            for number, record in enumerate(json.loads(files["results.json"]), 1)
        ]
        return made[0] if isinstance(prompt, str) and count is None else made

    def caption(
        self,
        image: ImageLike,
        *,
        nouns: Sequence[str] | None = None,
        most: int = 3,
        least_presence: float = 0.5,
        samples: int = 2,
        allow_url: bool = False,
        progress: Progress | None = None,
    ) -> Caption:
        """`textseg.caption` on the server; arguments and errors as there and in `segment`."""
        from .captioning import Caption

        fields = [("nouns", noun) for noun in nouns or ()]
        fields += _given(most=most, least_presence=least_presence, samples=samples)
        files = {"image": _encoded(image, allow_url)}
        answer = self._submit("/v1/caption", fields, files, _JSON, progress)
        found = json.loads(answer)
        pairs = tuple((noun, presence) for noun, presence in found["nouns"])
        return Caption(found["text"], found["model"], pairs, found["evaluations"])

    def _run(
        self,
        path: str,
        fields: Sequence[tuple[str, str]],
        files: Mapping[str, bytes],
        progress: Progress | None,
    ) -> dict[str, bytes]:
        """The files of the zip that a verb answers with."""
        answer = self._submit(path, fields, files, _ZIP, progress)
        try:
            with zipfile.ZipFile(io.BytesIO(answer)) as packed:
                return {name: packed.read(name) for name in packed.namelist()}
        except zipfile.BadZipFile as error:
            raise ServerError(f"the server's answer is damaged: {error}") from error

    def _submit(
        self,
        path: str,
        fields: Sequence[tuple[str, str]],
        files: Mapping[str, bytes],
        accept: str,
        progress: Progress | None,
    ) -> bytes:
        body, content = _form(fields, files)
        if progress is None:
            return self._ask("POST", path, accept, body, content)
        job = json.loads(self._ask("POST", f"{path}?async=true", accept, body, content))
        links = job["links"]
        over = False
        try:
            for name, record in self._events(links["events"]):
                over = name != "progress"
                if over and "error" in record:
                    raise _error(record["error"], 500)
                at = record["progress"]
                step = (at["done"], at["total"], at["stage"])
                if at["total"] and progress(*step) is False and not over:
                    raise CancelledError(f"stopped at step {step[0]} of {step[1]} of {step[2]}")
            if not over:
                raise ServerError("the server closed the job's events before its end")
            return self._ask("GET", links["result"], accept)
        finally:
            # Cancels it, or lets the server forget the result.
            self._forget(links["self"])

    def _forget(self, path: str) -> None:
        try:
            self._ask("DELETE", path, _JSON)
        except TextsegError:
            # The server forgets it by itself in a while.
            return

    def _events(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        with self._open("GET", path, "text/event-stream") as answer:
            name = ""
            while True:
                try:
                    line = answer.readline().decode("utf-8").rstrip("\r\n")
                    if not line and answer.isclosed():
                        return
                except (OSError, http.client.HTTPException) as error:
                    raise ServerError(f"the connection broke: {error}") from error
                if line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])

    def _ask(
        self, method: str, path: str, accept: str, body: bytes | None = None, content: str = ""
    ) -> bytes:
        patient_until = time.monotonic() + self._patience
        while True:
            try:
                with self._open(method, path, accept, body, content) as answer:
                    return answer.read()
            except ServerError as error:
                wait = error.retry_after
                if error.status != 429 or time.monotonic() + wait > patient_until:
                    raise
                time.sleep(wait)
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(f"the connection broke: {error}") from error

    def _open(
        self, method: str, path: str, accept: str, body: bytes | None = None, content: str = ""
    ) -> Any:
        headers = self._headers | {"Accept": accept}
        if body is not None:
            headers["Content-Type"] = content
        request = urllib.request.Request(f"{self.url}{path}", body, headers, method=method)
        try:
            return self._opener.open(request, timeout=self._timeout)
        except urllib.error.HTTPError as error:
            with error:
                raise _refused(error) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "reason", None) or error
            raise ServerError(f"cannot reach {self.url}: {reason}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *arguments: Any) -> None:
        return None


def _refused(answer: urllib.error.HTTPError) -> TextsegError:
    try:
        said = json.loads(answer.read(2**20))["error"]
        retry_after = float(answer.headers.get("Retry-After") or 1)
        return _error({"kind": said["kind"], "message": said["message"]}, answer.code, retry_after)
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return ServerError(f"the server answered with status {answer.code}", answer.code)


def _error(said: Mapping[str, str], status: int, retry_after: float = 1.0) -> TextsegError:
    kind = _ERRORS.get(said["kind"])
    return kind(said["message"]) if kind else ServerError(said["message"], status, retry_after)


def _encoded(image: ImageLike, allow_url: bool) -> bytes:
    """The image as a file: as it is where it is one, so that its metadata goes along, else PNG."""
    from .image import fetch_image, is_url, load_image
    from .saving import encode_picture

    if is_url(image):
        return fetch_image(image, allow_url=allow_url)
    if isinstance(image, (str, os.PathLike)) and os.path.isfile(image):
        with open(image, "rb") as file:
            return file.read()
    if isinstance(image, (bytes, bytearray, memoryview)):
        return bytes(image)
    return encode_picture(load_image(image), ".png", {})


def _region(mask: Any) -> np.ndarray:
    import numpy as np

    array = np.asarray(mask)
    if array.ndim != 2 or array.size == 0:
        raise InputError(f"mask must be (H, W) bool, got {array.shape} {array.dtype}")
    return array != 0


def _given(**values: Any) -> list[tuple[str, str]]:
    return [(name, str(value)) for name, value in values.items() if value is not None]


def _options(*given: Any) -> list[tuple[str, str]]:
    """Whole options and single fields as one form field; later ones win."""
    merged: dict[str, Any] = {}
    for one in given:
        if one is not None:
            fields = one if isinstance(one, dict) else asdict(one)
            if "threshold" in merged:
                fields = spell_threshold(merged["threshold"], fields)
            merged |= fields
    if not merged:
        return []
    try:
        return [("options", json.dumps(merged))]
    except (TypeError, ValueError) as error:
        raise InputError(f"options must be texts and numbers: {error}") from None


def _form(fields: Sequence[tuple[str, str]], files: Mapping[str, bytes]) -> tuple[bytes, str]:
    """A multipart body and its content type."""
    boundary = secrets.token_hex(24)
    parts = []
    for name, value in fields:
        head = f'Content-Disposition: form-data; name="{name}"\r\n'
        parts.append(head.encode() + b"\r\n" + check_text(name, value).encode())
    for name, data in files.items():
        head = f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        parts.append(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data)
    line = f"--{boundary}".encode()
    body = b"".join(line + b"\r\n" + part + b"\r\n" for part in parts) + line + b"--\r\n"
    return body, f"multipart/form-data; boundary={boundary}"
