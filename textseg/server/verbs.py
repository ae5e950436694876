"""What each verb does on a worker, and the forms its result is sent in."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from ..errors import InputError
from ..file_names import query_slugs
from ..formats import SUFFIXES
from ..options import ContrastOptions, EditOptions, GenerateOptions, RefineOptions
from ..segmenter import Segmenter
from .answers import JSONAnswer, Refusal, accepted
from .bodies import (
    MAX_QUERIES,
    Body,
    CaptionBody,
    EditBody,
    GenerateBody,
    OutpaintBody,
    SegmentBody,
)
from .engine import Ahead, Engine
from .pictures import key_of, read_picture

if TYPE_CHECKING:
    from ..captioning import Caption
    from ..edits import Edit
    from ..generation import Generation
    from ..masks import Segmentation
    from ..progress import Progress

PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAMCAIAAADkharWAAAAF0lEQVR4nGPYZm9PEmIY1TCqYfhq2GZvDwAB"
    "nb2BURxRxwAAAABJRU5ErkJggg=="
)
"""A grey PNG of 16 x 12 pixels, for examples."""
MASK = (
    "iVBORw0KGgoAAAANSUhEUgAAABAAAAAMCAAAAABOjGJdAAAAG0lEQVR42mNgIBkwMjAwMPxH4jChq6CGABkAAJlZ"
    "AQxN4BU/AAAAAElFTkSuQmCC"
)
"""A mask of the same size, its middle white."""

JSON, PNG, ZIP = "application/json", "image/png", "application/zip"


@dataclass(frozen=True)
class Task:
    """A request that was understood.

    Attributes:
        call: the work, on a worker; its result goes to `render`.
        render: the result and the Accept header to the answer; holds nothing of the request's
            files, as it is kept with the result.
        offered: media types the answer can have.
        image_key: of the image, "" without one.
        ahead: see `engine.Work`.
    """

    call: Callable[[Progress], Any]
    render: Callable[[Any, str], Response]
    offered: tuple[str, ...]
    image_key: str = ""
    ahead: Callable[[], Ahead] | None = None


def segment_task(engine: Engine, body: SegmentBody, max_pixels: int) -> Task:
    """`Segmenter.query` over a scene that the next request about the image finds again."""
    check_model(engine, body.model)
    given = body.chosen()
    _check_options(given, ContrastOptions, RefineOptions)
    clicked = bool(body.points or body.boxes)
    if clicked and (len(body.query) > 1 or body.exclusive):
        raise InputError("points and boxes must go with one query that competes with none")
    key = key_of(body.image)

    def scene() -> Any:
        return engine.scene(key, lambda: read_picture(body.image, max_pixels))

    def call(progress: Progress) -> list[Segmentation]:
        asked = given | {"caption": body.caption, "progress": progress}
        if clicked:
            asked |= {"points": body.points, "boxes": body.boxes}
            return [scene().query(body.query[0], **asked)]
        return scene().query(body.query, exclusive=body.exclusive, **asked)

    def ahead() -> Ahead:
        segmenter = scene()
        return Ahead(segmenter, segmenter.plan(body.query, caption=body.caption, **given))

    output = body.output

    def render(results: list[Segmentation], accept: str) -> Response:
        return _segmentations(results, output, accept)

    return Task(call, render, (JSON, PNG, ZIP), key, ahead)


def edit_task(engine: Engine, body: EditBody, max_pixels: int) -> Task:
    """`edit` of the uploaded file, whose metadata the result carries on."""
    check_model(engine, body.model)
    given = body.chosen()
    _check_options(given, EditOptions, ContrastOptions, RefineOptions)
    if body.mask is not None and body.mask_rle is not None:
        raise InputError("mask must be given as an image or as RLE, got both")
    region = body.region()
    key = key_of(body.image)
    if body.caption is not None:
        given["caption"] = body.caption

    def call(progress: Progress) -> Edit:
        from ..editing import edit, edit_defaults

        segmenter = engine.scene(key, lambda: read_picture(body.image, max_pixels))
        mask = region
        if body.mask is not None:
            mask = read_picture(body.mask, max_pixels, "mask")[..., 0] > 127
        if mask is not None and body.found and "grow" not in given:
            given["grow"] = edit_defaults(engine.model).grow
        patch, style = (
            None if data is None else read_picture(data, max_pixels, name)
            for name, data in (("patch", body.patch), ("style", body.style))
        )
        done = edit(
            body.image,
            body.query,
            body.prompt,
            model=segmenter,
            mask=mask,
            method=body.method,
            patch=patch,
            style=style,
            progress=progress,
            **given,
        )
        return _assessed(done, segmenter, progress) if body.assess else done

    return Task(call, _edit_renderer(body.visible_label), (JSON, PNG, ZIP), key)


def outpaint_task(engine: Engine, body: OutpaintBody, max_pixels: int) -> Task:
    """`outpaint` of the uploaded file, whose metadata the result carries on."""
    check_model(engine, body.model)
    given = body.chosen()
    _check_options(given, EditOptions)
    amounts = {side: getattr(body, side) for side in ("left", "right", "top", "bottom")}

    def call(progress: Progress) -> Edit:
        from ..outpainting import count_pads, outpaint

        size = read_picture(body.image, max_pixels).shape[:2]
        pads = count_pads(size, max_pixels=max_pixels, **amounts)
        segmenter = Segmenter(engine.model)
        done = outpaint(
            body.image,
            body.prompt,
            model=segmenter,
            method=body.method,
            progress=progress,
            **pads._asdict(),
            **given,
        )
        return _assessed(done, segmenter, progress) if body.assess and done.prompt else done

    return Task(call, _edit_renderer(body.visible_label), (JSON, PNG, ZIP))


def _assessed(done: Edit, segmenter: Segmenter, progress: Progress) -> Edit:
    from ..assessing import assess

    return dataclasses.replace(done, outcome=assess(done, model=segmenter, progress=progress))


def _edit_renderer(visible_label: bool) -> Callable[[Edit, str], Response]:
    """An edit in the form that is asked for."""

    def render(result: Edit, accept: str) -> Response:
        kind = accepted(accept, (JSON, PNG, ZIP))
        picture = result.to_bytes(".png", visible_label)
        if kind == PNG:
            return _file(picture, PNG, "edited.png")
        record = result.describe() | {"rle": _rle(result)}
        if kind == JSON:
            return JSONAnswer(record | {"image": _base64(picture)})
        lean = dataclasses.replace(result, source=None)
        return _zip(
            {
                "edited.png": picture,
                "edit.npz": lean.to_bytes(".npz"),
                "edit.json": _json(record),
            }
        )

    return render


def generate_task(engine: Engine, body: GenerateBody, max_pixels: int) -> Task:
    """`generate`, at most `MAX_QUERIES` images of at most twice the model's own sides."""
    check_model(engine, body.model)
    given = body.chosen()
    _check_options(given, GenerateOptions)
    images = len(body.prompt) * body.count
    if images > MAX_QUERIES:
        raise InputError(f"prompts times count must be at most {MAX_QUERIES}, got {images}")
    most = min(max_pixels, 4 * engine.model.native_size**2)
    height = given.get("height") or engine.model.native_size
    width = given.get("width") or engine.model.native_size
    if height * width > most:
        raise InputError(f"height times width must be at most {most}, got {height * width}")

    def call(progress: Progress) -> list[Generation]:
        from ..generation import generate

        return generate(
            body.prompt, count=body.count, model=engine.model, progress=progress, **given
        )

    def render(results: list[Generation], accept: str) -> Response:
        kind = accepted(accept, (JSON, PNG, ZIP) if len(results) == 1 else (JSON, ZIP))
        pictures = [result.to_bytes(".png", body.visible_label) for result in results]
        if kind == PNG:
            return _file(pictures[0], PNG, "generated.png")
        records = [result.describe() for result in results]
        if kind == JSON:
            return JSONAnswer(
                {
                    "results": [
                        record | {"image": _base64(picture)}
                        for record, picture in zip(records, pictures, strict=True)
                    ]
                }
            )
        files = {f"{number}.png": picture for number, picture in enumerate(pictures, 1)}
        return _zip(files | {"results.json": _json(records)})

    return Task(call, render, (JSON, PNG, ZIP))


def caption_task(engine: Engine, body: CaptionBody, max_pixels: int) -> Task:
    """`caption`, by the captioning model if the server has one."""
    check_model(engine, body.model)
    key = key_of(body.image)

    def call(progress: Progress) -> Caption:
        from ..captioning import caption

        return caption(
            read_picture(body.image, max_pixels),
            model=engine.captioner or engine.model,
            nouns=body.nouns,
            most=body.most,
            least_presence=body.least_presence,
            samples=body.samples,
            progress=progress,
        )

    def render(result: Caption, accept: str) -> Response:
        accepted(accept, (JSON,))
        return JSONAnswer(dataclasses.asdict(result))

    return Task(call, render, (JSON,), key)


@dataclass(frozen=True)
class Verb:
    """Something that can be asked for at `POST /v1/NAME`.

    Attributes:
        summary: of what it does.
        body: what a request may say.
        task: turns a body into work; also takes the most pixels an image may have.
        answer: "results", "result" or "caption", the kind of JSON that comes back.
        examples: bodies that work, by what they show.
        pictures: whether answers can be pictures.
    """

    summary: str
    body: type[Body]
    task: Callable[[Engine, Any, int], Task]
    answer: str
    examples: dict[str, dict[str, Any]]
    pictures: bool = True


VERBS: dict[str, Verb] = {
    "segment": Verb(
        "Cut out what queries name", SegmentBody, segment_task, "results",
        {
            "two queries": {
                "image": PIXEL,
                "query": ["the dog", "the tree"],
                "options": {"samples": 4, "threshold": "otsu"},
                "output": ["mask", "rle"],
            },
            "corrected by clicks and a box": {
                "image": PIXEL,
                "query": "the dog",
                "points": [[8, 6, 1], [1, 1, 0]],
                "boxes": [[4, 3, 12, 9]],
            },
        },
    ),
    "edit": Verb(
        "Change what a query names", EditBody, edit_task, "result",
        {
            "a region becomes something else": {
                "image": PIXEL,
                "mask": MASK,
                "prompt": "a cat",
                "options": {"steps": 20, "encode_ratio": 0.5},
            },
        },
    ),
    "outpaint": Verb(
        "Extend an image beyond its borders", OutpaintBody, outpaint_task, "result",
        {"an extension": {"image": PIXEL, "left": 8, "right": "50%", "prompt": "a park"}},
    ),
    "generate": Verb(
        "Make images", GenerateBody, generate_task, "results",
        {"an image": {"prompt": "a photo of a dog", "options": {"steps": 20, "seed": 7}}},
    ),
    "caption": Verb(
        "Say what an image shows", CaptionBody, caption_task, "caption",
        {"which of these": {"image": PIXEL, "nouns": ["dog", "tree"], "most": 2}},
        pictures=False,
    ),
}  # fmt: skip
"""The verbs by name; the routes, the description and the jobs' kinds follow from it."""


def check_model(engine: Engine, name: str) -> None:
    """Refuses a request for a model that is not the one served."""
    if name not in ("", engine.model.name):
        raise Refusal(
            404, "no_such_model", f"The model must be one of /v1/models: {engine.model.name!r}."
        )


def _check_options(given: dict[str, Any], *kinds: type) -> list[dict[str, Any]]:
    """What is given of each kind of options, checked before anything waits."""
    parts = []
    for kind in kinds:
        names = {field.name for field in dataclasses.fields(kind)}
        parts.append({name: value for name, value in given.items() if name in names})
        kind(**parts[-1])
    return parts


def _segmentations(results: Sequence[Segmentation], output: Sequence[str], accept: str) -> Response:
    kind = accepted(accept, (JSON, PNG, ZIP))
    polygons = "polygon" in output
    if kind == PNG:
        shown = next((what for what in output if what in ("mask", "score", "cutout")), "mask")
        if output[0] == "overlay":
            shown = "overlay"
        return _picture(results, shown)
    records = [_record(result, polygons) for result in results]
    if kind == JSON:
        return JSONAnswer({"results": records})
    files: dict[str, bytes] = {}
    slugs = query_slugs([result.query for result in results])
    for result, slug in zip(results, slugs, strict=True):
        for what in dict.fromkeys(output):
            files[f"{slug}.{SUFFIXES[what]}"] = _bytes(result, what)
    named = [record | {"name": slug} for record, slug in zip(records, slugs, strict=True)]
    return _zip(files | {"results.json": _json(named)})


def _picture(results: Sequence[Segmentation], what: Any) -> Response:
    from ..masks import overlay_many
    from ..saving import encode_picture

    if len(results) == 1:
        return _file(results[0].to_bytes(".png", what), PNG, f"{what}.png")
    if what != "overlay" or results[0].image is None:
        raise Refusal(
            406,
            "not_acceptable",
            "Several queries give several pictures: accept application/zip, or ask for overlay.",
        )
    record = {"results": [result.describe() for result in results]}
    pixels = overlay_many(results[0].image, results)
    return _file(encode_picture(pixels, ".png", record), PNG, "overlay.png")


def _bytes(result: Segmentation, what: Any) -> bytes:
    if what == "npz":
        # Who sent the image has it.
        return dataclasses.replace(result, image=None).to_bytes(".npz")
    if what == "rle":
        return result.to_bytes(".json")
    if what == "polygon":
        return _json(result.describe() | {"polygons": result.to_polygons()})
    return result.to_bytes(".png", what)


def _record(result: Segmentation, polygons: bool) -> dict[str, Any]:
    coco = result.to_coco()
    shape = {"polygons": result.to_polygons()} if polygons else {"rle": coco["segmentation"]}
    return result.describe() | {"bbox": coco["bbox"]} | shape


def _rle(result: Edit) -> dict[str, Any]:
    from ..rle import encode_rle

    return encode_rle(result.mask)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _json(content: Any) -> bytes:
    return (json.dumps(content, indent=2) + "\n").encode()


def _file(data: bytes, kind: str, name: str) -> Response:
    disposition = f'inline; filename="{name}"'
    return Response(data, media_type=kind, headers={"Content-Disposition": disposition})


def _zip(files: dict[str, bytes]) -> Response:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as packed:
        for name, data in files.items():
            # A fixed date, so that equal results are equal bytes.
            packed.writestr(zipfile.ZipInfo(name), data)
    return _file(buffer.getvalue(), ZIP, "textseg.zip")
