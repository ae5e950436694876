"""Labels in XMP: written, read back by other means, carried over, and never taken away."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from fake_backbone import FakeBackbone
from PIL import Image, PngImagePlugin

from textseg.editing import edit
from textseg.edits import Edit
from textseg.errors import ImageError
from textseg.provenance import (
    ALTERED,
    COMPOSITE,
    TRAINED,
    build_packet,
    edit_label,
    read_label,
    xmp_label,
)
from textseg.saving import read_provenance

CAMERA = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
PACKET = """<?xpacket begin="" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
 xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
 <rdf:Description rdf:about="uuid:1" xmlns:photoshop="http://ns.adobe.com/photoshop/1.0/"
   xmlns:ext="http://iptc.org/std/Iptc4xmpExt/2008-02-29/" photoshop:Credit="Ann" {attribute}>
  {element}<dc:rights xmlns:dc="http://purl.org/dc/elements/1.1/">all of them</dc:rights>
 </rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>"""


def _packet(source_type: str, form: str = "attribute") -> str:
    if form == "attribute":
        return PACKET.format(attribute=f'ext:DigitalSourceType="{source_type}"', element="")
    if form == "resource":
        element = f'<ext:DigitalSourceType rdf:resource="{source_type}"/>'
    else:
        element = f"<ext:DigitalSourceType> {source_type} </ext:DigitalSourceType>"
    return PACKET.format(attribute="", element=element)


def _file(kind: str, packet: str) -> bytes:
    out = io.BytesIO()
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 64, 3), dtype=np.uint8))
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_itxt("XML:com.adobe.xmp", packet)
        image.save(out, kind, pnginfo=info)
    else:
        image.save(out, kind, xmp=packet.encode())
    return out.getvalue()


def _edit(data: bytes, method: str = "diffedit") -> Edit:
    mask = np.zeros((40, 64), bool)
    mask[10:30, 20:50] = True
    return edit(data, prompt="a cat", model=FakeBackbone({}), mask=mask, steps=2, method=method)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp"])
def test_edits_are_labelled_in_every_format(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"out{suffix}"
    done = _edit(_file("PNG", ""))
    done.save(path)
    assert read_label(path).source_type == COMPOSITE
    record = read_provenance(path)
    assert record is not None and record["prompt"] == "a cat"
    # The bytes hold the packet where the format wants it, whoever reads them.
    data = path.read_bytes()
    mark = {".png": b"iTXtXML:com.adobe.xmp\0", ".webp": b"XMP "}
    assert mark.get(suffix, b"http://ns.adobe.com/xap/1.0/\0") in data
    assert COMPOSITE.encode() in data
    if suffix != ".jpg":
        np.testing.assert_array_equal(np.asarray(Image.open(path).convert("RGB")), done.image)


@pytest.mark.parametrize("form", ["attribute", "element", "resource"])
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_labels_are_read_in_every_form(kind: str, form: str) -> None:
    label = read_label(_file(kind, _packet(CAMERA, form)))
    assert label.source_type == CAMERA
    assert not label.made_by_model


@pytest.mark.parametrize("form", ["attribute", "element", "resource"])
@pytest.mark.parametrize("before", [TRAINED, COMPOSITE])
def test_an_input_made_by_a_model_keeps_its_label(before: str, form: str, tmp_path: Path) -> None:
    for method in ("diffedit", "opencv-inpaint"):
        done = _edit(_file("PNG", _packet(before, form)), method)
        done.save(tmp_path / "out.png")
        label = read_label(tmp_path / "out.png")
        assert label.source_type == before and label.made_by_model
        assert "photoshop:Credit" in label.packet and "all of them" in label.packet
        assert len(re.findall("DigitalSourceType", label.packet)) == 2  # one element: open, close


def test_a_photographs_label_becomes_a_composite_and_its_rights_stay(tmp_path: Path) -> None:
    _edit(_file("JPEG", _packet(CAMERA))).save(tmp_path / "out.jpg")
    label = read_label(tmp_path / "out.jpg")
    assert label.source_type == COMPOSITE
    assert 'photoshop:Credit="Ann"' in label.packet and "all of them" in label.packet
    assert 'about="uuid:1"' in label.packet


def test_methods_without_a_model_say_so(tmp_path: Path) -> None:
    _edit(_file("PNG", ""), "opencv-inpaint").save(tmp_path / "out.png")
    assert read_label(tmp_path / "out.png").source_type == ALTERED


def test_nothing_edited_nothing_said(tmp_path: Path) -> None:
    empty = np.zeros((40, 64), bool)
    for packet in ("", _packet(TRAINED)):
        edit(_file("PNG", packet), prompt="a cat", model=FakeBackbone({}), mask=empty).save(
            tmp_path / "out.png"
        )
        assert read_label(tmp_path / "out.png").source_type == (TRAINED if packet else "")


def test_the_label_survives_the_npz_form(tmp_path: Path) -> None:
    _edit(_file("PNG", _packet(TRAINED))).save(tmp_path / "all.npz")
    Edit.load(tmp_path / "all.npz").save(tmp_path / "out.webp")
    assert read_label(tmp_path / "out.webp").source_type == TRAINED


def test_inputs_of_every_kind_carry_their_label(tmp_path: Path) -> None:
    data = _file("PNG", _packet(TRAINED))
    path = tmp_path / "in.png"
    path.write_bytes(data)
    with Image.open(path) as opened, path.open("rb") as file:
        for source in (data, path, str(path), opened, file):
            assert _edit(source).input_xmp  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "packet",
    [
        "no xml at all",
        '<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>',
        "<a>" * 50_000,
        "<unclosed>",
        "<other xmlns='urn:x'/>",
    ],
)
def test_damaged_packets_do_no_harm(packet: str) -> None:
    label = read_label(_file("PNG", packet))
    assert label.source_type == ""
    assert COMPOSITE in edit_label(packet).decode()


def test_a_packet_too_large_for_a_jpeg_leaves_the_label() -> None:
    carried = _packet(TRAINED).replace("all of them", "x" * 70_000)
    packet = edit_label(carried)
    assert len(packet) < 65_000
    assert TRAINED in packet.decode()


def test_packets_are_stable() -> None:
    once = build_packet(COMPOSITE, _packet(CAMERA))
    assert build_packet(COMPOSITE, once) == once
    assert xmp_label(TRAINED) == build_packet(TRAINED).encode()


def test_what_is_no_image_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="in no known format"):
        read_label(b"text")
    with pytest.raises(ImageError, match="must be a readable file"):
        read_label(tmp_path / "none.png")


def test_the_visible_label_changes_the_lower_left_corner_only(tmp_path: Path) -> None:
    done = _edit(_file("PNG", ""))
    big = Edit(np.zeros((400, 640, 3), np.uint8), np.ones((400, 640), bool), "", "a cat")
    big.save(tmp_path / "seen.png", visible_label=True)
    seen = np.asarray(Image.open(tmp_path / "seen.png"))
    assert seen[300:, :320].max() > 200
    assert not seen[:300].any() and not seen[:, 320:].any()
    assert done.image.shape == (40, 64, 3)
