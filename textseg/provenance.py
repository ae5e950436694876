"""Labels in image files: IPTC's Digital Source Type in XMP.

What an input's XMP already says is kept; an input that is marked as made by a model stays marked.

Sources: IPTC Photo Metadata Standard 2025.1 (DigitalSourceType, AISystemUsed), IPTC NewsCodes
"Digital Source Type"; XMP Specification part 3 for where the packet goes in PNG, JPEG and WebP.
"""

from __future__ import annotations

import io
import re
import warnings
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._version import __version__
from .errors import ImageError

if TYPE_CHECKING:
    from PIL.Image import Image

_NEWSCODES = "http://cv.iptc.org/newscodes/digitalsourcetype/"
TRAINED = _NEWSCODES + "trainedAlgorithmicMedia"
"""Made by a model, from a prompt."""
COMPOSITE = _NEWSCODES + "compositeWithTrainedAlgorithmicMedia"
"""Partly made by a model: an edit of an image that already was."""

_NAMESPACES = {
    "x": "adobe:ns:meta/",
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
}
_SOURCE_TYPE = f"{{{_NAMESPACES['Iptc4xmpExt']}}}DigitalSourceType"
_RESOURCE = f"{{{_NAMESPACES['rdf']}}}resource"
_RDF = f"{{{_NAMESPACES['rdf']}}}RDF"
_DESCRIPTION = f"{{{_NAMESPACES['rdf']}}}Description"
_ABOUT = f"{{{_NAMESPACES['rdf']}}}about"
_JPEG_LIMIT = 65533 - len("http://ns.adobe.com/xap/1.0/\x00")
_PACKET_LIMIT = 4 * 2**20

ALTERED = _NEWSCODES + "algorithmicallyEnhanced"
"""Altered by an algorithm that is no trained model."""


@dataclass(frozen=True)
class Label:
    """What an image file says about its making.

    Attributes:
        source_type: IPTC Digital Source Type as a URI, or "".
        packet: the whole XMP packet, or "".
    """

    source_type: str = ""
    packet: str = ""

    @property
    def made_by_model(self) -> bool:
        """Whether the file says that a trained model made it or a part of it."""
        return self.source_type.rpartition("/")[2] in (
            "trainedAlgorithmicMedia",
            "compositeWithTrainedAlgorithmicMedia",
            "compositeSynthetic",
        )


def read_label(source: Any) -> Label:
    """The label of an image file; an empty one if it carries none.

    Args:
        source: a path, bytes, a binary file object (left where it was) or a PIL image.

    Raises:
        ImageError: the file is not an image.
    """
    from PIL import Image

    from .png_texts import open_picture

    if isinstance(source, Image.Image):
        return _label_of(source)
    if isinstance(source, (bytes, bytearray)):
        source = io.BytesIO(source)
    start = source.tell() if hasattr(source, "read") else None
    try:
        with warnings.catch_warnings():
            # Only the header and the metadata are read here; no pixels are decoded.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with open_picture(source) as image:
                return _label_of(image)
    except FileNotFoundError as error:
        raise ImageError(f"image must be a readable file, got {str(source)!r}") from error
    except Image.UnidentifiedImageError:
        where = f": {str(source)!r}" if start is None else ""
        raise ImageError(f"image is in no known format, or its header is damaged{where}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ImageError(f"image cannot be read: {error}") from error
    finally:
        if start is not None:
            source.seek(start)


def _label_of(image: Image) -> Label:
    """The label in a PIL image's metadata."""
    packet = image.info.get("xmp", b"")
    if isinstance(packet, bytes):
        packet = packet.decode("utf-8", "replace")
    root = _parse(packet)
    return Label(_property(root, _SOURCE_TYPE), packet if root is not None else "")


def _parse(packet: str) -> ET.Element | None:
    """The packet's root element; None if it is empty, damaged, oversized or declares entities."""
    packet = packet.strip("\x00 \r\n\t\ufeff")
    if not packet or len(packet) > _PACKET_LIMIT or "<!DOCTYPE" in packet or "<!ENTITY" in packet:
        return None
    try:
        return ET.fromstring(packet)
    except ET.ParseError:
        return None


def _property(root: ET.Element | None, name: str) -> str:
    """A simple property of an XMP packet, written as attribute, element or resource."""
    for node in root.iter() if root is not None else ():
        if name in node.attrib:
            return node.attrib[name].strip()
        if node.tag == name:
            return (node.get(_RESOURCE) or node.text or "").strip()
    return ""


def edit_label(carried: str, *, trained: bool = True) -> bytes:
    """The XMP label of an edit.

    An input that was made by a model keeps its own source type, whatever was done to it.

    Args:
        carried: the input's XMP packet, "" if it had none.
        trained: whether a trained model made the edit.
    """
    before = _property(_parse(carried), _SOURCE_TYPE)
    if Label(before).made_by_model:
        return xmp_label(before, carried)
    return xmp_label(COMPOSITE if trained else ALTERED, carried)


def build_packet(source_type: str, carried: str = "") -> str:
    """An XMP packet that labels an image.

    Args:
        source_type: Digital Source Type, a URI.
        carried: the input's packet: everything in it is kept but the properties set here.
    """
    root = _parse(carried)
    _register_prefixes(carried if root is not None else "")
    rdf = next(root.iter(_RDF), None) if root is not None else None
    if root is None or rdf is None:
        root = ET.Element(f"{{{_NAMESPACES['x']}}}xmpmeta")
        rdf = ET.SubElement(root, _RDF)
    ours = {
        _SOURCE_TYPE: source_type,
        f"{{{_NAMESPACES['xmp']}}}CreatorTool": f"textseg {__version__}",
        f"{{{_NAMESPACES['Iptc4xmpExt']}}}AISystemUsed": "textseg",
        f"{{{_NAMESPACES['Iptc4xmpExt']}}}AISystemVersionUsed": __version__,
    }
    descriptions = rdf.findall(_DESCRIPTION)
    for description in descriptions:
        for name in ours:
            description.attrib.pop(name, None)
            for child in description.findall(name):
                description.remove(child)
        if not len(description) and set(description.attrib) <= {_ABOUT}:
            rdf.remove(description)
    about = descriptions[0].get(_ABOUT, "") if descriptions else ""
    added = ET.SubElement(rdf, _DESCRIPTION, {_ABOUT: about})
    for name, value in ours.items():
        ET.SubElement(added, name).text = value
    body = ET.tostring(root, encoding="unicode")
    return f'<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>\n{body}\n<?xpacket end="w"?>'


def _register_prefixes(carried: str) -> None:
    """Have properties written under the prefixes they came with, and ours under the usual ones."""
    if carried:
        text = io.StringIO(carried.strip("\x00 \r\n\t\ufeff"))
        for _, (prefix, uri) in ET.iterparse(text, events=["start-ns"]):
            if prefix and not re.fullmatch(r"ns\d+", prefix):
                ET.register_namespace(prefix, uri)
    for prefix, uri in _NAMESPACES.items():
        ET.register_namespace(prefix, uri)


def xmp_label(source_type: str, carried: str = "") -> bytes:
    """`build_packet` as bytes that fit every format; a carried packet too large for a JPEG's one
    segment is left out."""
    packet = build_packet(source_type, carried).encode()
    return packet if len(packet) <= _JPEG_LIMIT else build_packet(source_type).encode()
