"""Images in: every kind of source, and one clear line for what is not an image."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import threading
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from textseg.errors import ImageError, ImageWarning
from textseg.image import MAX_PIXELS, image_identity, load_image, resize_image
from textseg.provenance import read_label
from textseg.saving import read_provenance

HEIGHT, WIDTH = 18, 25


@pytest.fixture
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def smooth(height: int = HEIGHT, width: int = WIDTH) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 9, y * 13, (x + y) * 5], axis=-1).astype(np.uint8)


def one_line(source, match: str, **options) -> None:
    with pytest.raises(ImageError, match=match) as caught:
        load_image(source, **options)
    assert "\n" not in str(caught.value)


# What a user has


def test_path_string_bytes_file_object_and_pil_agree(rgb, tmp_path):
    path = tmp_path / "näme with spaces.png"
    Image.fromarray(rgb).save(path)
    data = path.read_bytes()
    with path.open("rb") as file:
        sources = [path, str(path), data, bytearray(data), memoryview(data), io.BytesIO(data), file]
        loaded = [load_image(source) for source in sources]
    with Image.open(path) as image:
        loaded.append(load_image(image))
    for result in loaded:
        assert result.dtype == np.uint8 and result.flags.c_contiguous
        np.testing.assert_array_equal(result, rgb)


def test_a_pipe_can_be_read(rgb):
    read, write = os.pipe()
    data = encoded(Image.fromarray(rgb))
    with os.fdopen(write, "wb") as sink:
        sink.write(data)
    with os.fdopen(read, "rb") as source:
        np.testing.assert_array_equal(load_image(source), rgb)


def test_the_result_shares_no_memory_with_the_array(rgb):
    before = rgb.copy()
    load_image(rgb)[:] = 7
    np.testing.assert_array_equal(rgb, before)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats(rgb, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(rgb), kind, **options)), rgb)


def test_grey_arrays_become_three_equal_channels(rgb):
    grey = rgb[..., 0]
    expected = np.dstack([grey] * 3)
    np.testing.assert_array_equal(load_image(grey), expected)
    np.testing.assert_array_equal(load_image(grey[..., None]), expected)


def test_bool_is_black_and_white():
    mask = np.array([[True, False, True]])
    assert load_image(mask)[..., 1].tolist() == [[255, 0, 255]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_are_scaled_and_rounded(rgb, dtype):
    np.testing.assert_array_equal(load_image((rgb / 255).astype(dtype)), rgb)


@pytest.mark.parametrize("dtype", ["<u2", ">u2"])
def test_sixteen_bits_keep_their_range(rgb, dtype):
    np.testing.assert_array_equal(load_image((rgb.astype(np.uint16) * 257).astype(dtype)), rgb)
    assert load_image(np.array([[0, 255, 256, 32768, 65535]], dtype))[0, :, 0].tolist() == [
        0,
        0,
        1,
        128,
        255,
    ]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bit_files_agree_with_sixteen_bit_arrays(tmp_path, suffix, channels):
    values = np.random.default_rng(1).integers(0, 65536, (HEIGHT, WIDTH, channels), dtype=np.uint16)
    path = tmp_path / f"deep{suffix}"
    assert cv2.imwrite(str(path), values[..., ::-1])
    np.testing.assert_array_equal(load_image(path), load_image(values))


def alpha_over_white(rgba: np.ndarray) -> np.ndarray:
    alpha = rgba[..., 3:] / 255
    return rgba[..., :3] * alpha + 255 * (1 - alpha)


def test_alpha_is_composited_on_white():
    rgba = np.random.default_rng(2).integers(0, 256, (HEIGHT, WIDTH, 4), dtype=np.uint8)
    for source in (rgba, encoded(Image.fromarray(rgba)), rgba / 255):
        result = load_image(source).astype(float)
        assert np.abs(result - alpha_over_white(rgba)).max() <= 0.5 + 1e-9
    grey_alpha = rgba[..., [0, 3]]
    expected = load_image(np.dstack([rgba[..., 0]] * 3 + [rgba[..., 3]]))
    np.testing.assert_array_equal(load_image(grey_alpha), expected)
    np.testing.assert_array_equal(load_image(encoded(Image.fromarray(grey_alpha))), expected)


def test_a_transparent_palette_colour_is_white():
    image = Image.new("P", (3, 2), 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((0, 0), 0)
    result = load_image(encoded(image, transparency=0))
    assert result[0, 0].tolist() == [255, 255, 255]
    assert result[1, 2].tolist() == [40, 50, 60]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV", "La"])
def test_every_mode_of_pillow_comes_out_as_rgb(mode):
    picture = Image.fromarray(smooth())
    if mode in ("PA", "La"):
        picture = picture.convert("LA")
    result = load_image(picture.convert(mode))
    assert result.shape == (HEIGHT, WIDTH, 3) and result.dtype == np.uint8


def test_cmyk_jpeg():
    red = np.full((16, 24, 3), (250, 10, 10), np.uint8)
    data = encoded(Image.fromarray(red).convert("CMYK"), "JPEG", quality=95)
    assert np.abs(load_image(data).astype(int) - red).max() <= 12


def test_integer_and_float_modes():
    wide = Image.fromarray(np.array([[0, 65535]], np.int32))
    assert load_image(wide)[0, :, 0].tolist() == [0, 255]
    assert load_image(Image.fromarray(np.array([[0, 1]], np.float32)))[0, :, 0].tolist() == [0, 255]
    one_line(Image.fromarray(np.array([[0, 65536]], np.int32)), "0 to 65535, got 0 to 65536")


def test_the_first_frame_of_an_animation(rgb):
    frames = [Image.fromarray(np.full((4, 6, 3), value, np.uint8)) for value in (10, 200)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert (load_image(data) == 10).all()


# Row and column in the stored file at which the upright picture's upper left pixel lies.
CORNERS = {1: (0, 0), 2: (0, -1), 3: (-1, -1), 4: (-1, 0), 5: (0, 0), 6: (-1, 0), 7: (-1, -1),
           8: (0, -1)}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_exif_orientation(rgb, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    result = load_image(encoded(Image.fromarray(rgb), kind, exif=exif, **options))
    swapped = orientation >= 5
    assert result.shape[:2] == ((WIDTH, HEIGHT) if swapped else (HEIGHT, WIDTH))
    assert result[0, 0].tolist() == rgb[CORNERS[orientation]].tolist()
    # Walking down the upright picture walks along the stored file's columns when sides swap.
    row, column = CORNERS[orientation]
    step = 1 if (column if swapped else row) == 0 else -2
    below = (row, step) if swapped else (step, column)
    assert result[1, 0].tolist() == rgb[below].tolist()


def test_broken_exif_does_not_spoil_the_picture(rgb):
    data = encoded(Image.fromarray(rgb), exif=b"Exif\0\0garbage")
    np.testing.assert_array_equal(load_image(data), rgb)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
def test_tensors_channels_first_or_last(rgb, dtype):
    scale = 1 if dtype == torch.uint8 else 255
    tensor = (torch.from_numpy(rgb) / scale).to(dtype) if scale > 1 else torch.from_numpy(rgb)
    tolerance = 1 if dtype == torch.bfloat16 else 0
    for given_tensor in (tensor, tensor.permute(2, 0, 1)):
        result = load_image(given_tensor).astype(int)
        assert np.abs(result - rgb).max() <= tolerance
    grey = load_image(tensor[..., 0])
    assert grey.shape == (HEIGHT, WIDTH, 3)


def test_a_tensor_with_few_rows_is_channels_first():
    assert load_image(torch.zeros(3, 5, 4)).shape == (5, 4, 3)


def test_a_tensor_that_needs_gradients():
    assert load_image(torch.zeros(3, 5, 7, requires_grad=True)).shape == (5, 7, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1)])
def test_extreme_shapes_are_images(shape, tmp_path):
    array = np.zeros((*shape, 3), np.uint8)
    path = tmp_path / "thin.png"
    Image.fromarray(array).save(path)
    assert load_image(array).shape == (*shape, 3)
    assert load_image(path).shape == (*shape, 3)


# What is not an image


def png_header(width: int, height: int) -> bytes:
    data = b"\x89PNG\r\n\x1a\n"
    for body in (
        b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0),
        b"IDAT" + zlib.compress(b"few bytes"),
    ):
        data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    return data


def test_files_that_are_no_images(tmp_path):
    one_line(tmp_path / "missing.png", "must be an existing file, got '.*missing.png'")
    one_line(tmp_path, "must be a file, got the folder")
    one_line("", "must be a path, got ''")
    one_line("a\0b.png", "null")
    empty, text = tmp_path / "empty.png", tmp_path / "text.png"
    empty.touch()
    text.write_text("This is not a picture.")
    one_line(empty, r"empty \(0 bytes\)")
    one_line(text, "in no known format")
    one_line(b"", r"^image is empty \(0 bytes\)$")
    one_line(io.BytesIO(), "0 bytes")
    one_line(io.StringIO("text"), "binary mode")
    one_line("x" * 5000, "File name too long")


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may read all")
def test_a_file_that_may_not_be_read(tmp_path):
    path = tmp_path / "secret.png"
    path.write_bytes(png_header(1, 1))
    path.chmod(0)
    one_line(path, "Permission denied")


@pytest.mark.parametrize("side", [30_000, 9_000])
def test_a_huge_header_is_refused_before_decoding(tmp_path, side):
    path = tmp_path / "huge.png"
    path.write_bytes(png_header(side, side))
    one_line(path, f"at most {MAX_PIXELS} pixels, got .*{side * side}")


def test_the_pixel_limit_holds_for_every_source(rgb):
    for source in (rgb, Image.fromarray(rgb), encoded(Image.fromarray(rgb)), torch.from_numpy(rgb)):
        one_line(source, "at most 449 pixels, got 25 x 18 = 450", max_pixels=449)
        assert load_image(source, max_pixels=450).shape == rgb.shape


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"])
def test_a_truncated_file_is_refused_not_half_decoded(kind):
    picture = np.random.default_rng(3).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(picture), kind)
    whole = load_image(data)
    for length in range(1, len(data), max(1, len(data) // 60)):
        try:
            result = load_image(data[:length])
        except ImageError as error:
            assert "\n" not in str(error)
        else:
            # What was cut off held no pixels.
            np.testing.assert_array_equal(result, whole)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_damaged_files_raise_nothing_but_image_errors(data):
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "GIF", "TIFF", "BMP"]))
    damaged = bytearray(encoded(Image.fromarray(smooth()), kind))
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        result = load_image(bytes(damaged), max_pixels=10**6)
    except ImageError as error:
        assert "\n" not in str(error)
    else:
        assert result.ndim == 3 and result.dtype == np.uint8


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (np.full((2, 3), np.nan), "finite"),
        (np.full((2, 3), np.inf), "finite"),
        (np.full((2, 3), 1.5), r"\[0, 1\], got 1.5 to 1.5"),
        (np.full((2, 3), -0.1), r"\[0, 1\], got -0.1"),
        (np.zeros((2, 3), np.int64), "uint8, uint16 or float, got int64"),
        (np.zeros((2, 3), complex), "complex128"),
        (np.zeros((2, 3), object), "object"),
        (np.zeros(5, np.uint8), r"got \(5,\)"),
        (np.zeros((3, 20, 30), np.uint8), r"channels last, got \(3, 20, 30\)"),
        (np.zeros((1, 20, 30, 3), np.uint8), r"got \(1, 20, 30, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "empty"),
        (np.zeros((4, 0), np.uint8), "empty"),
        (np.array(3, np.uint8), r"got \(\)"),
        (torch.zeros(1, 3, 4, 5), r"got \(1, 3, 4, 5\)"),
        (torch.zeros(7, 8, 9), r"got \(7, 8, 9\)"),
        (torch.zeros(3, 4, 5, dtype=torch.int64), "int64"),
        (torch.full((3, 4, 5), float("nan")), "finite"),
        (torch.zeros(3, 0, 5), "empty"),
        ([[0, 1], [1, 0]], "got list"),
        (None, "got NoneType"),
    ],
)
def test_sources_that_break_a_rule(source, match):
    one_line(source, match)


# Identity and size


def test_identity_tells_pixels_and_shapes_apart(rgb):
    assert image_identity(rgb) == image_identity(rgb.copy(order="F"))
    changed = rgb.copy()
    changed[-1, -1, -1] ^= 1
    other = {image_identity(rgb), image_identity(changed), image_identity(rgb.reshape(25, 18, 3))}
    assert len(other) == 3
    with pytest.raises(ImageError, match=r"\(H, W, 3\) uint8"):
        image_identity(rgb[..., 0])


def test_resizing_keeps_means_and_axes():
    y, x = np.mgrid[:40, :64]
    image = np.stack([x * 3, y * 6, x + y], axis=-1).astype(np.uint8)
    small = resize_image(image, (10, 16))
    means = image.reshape(10, 4, 16, 4, 3).mean(axis=(1, 3))
    assert small.shape == (10, 16, 3)
    # The filter reaches over the edge in the outermost cells.
    assert np.abs(small - means)[1:-1, 1:-1].max() <= 1
    same = resize_image(image, (40, 64))
    assert same is not image
    np.testing.assert_array_equal(same, image)
    with pytest.raises(ImageError, match="size"):
        resize_image(image, (0, 4))


def test_shrinking_a_lot_stays_near_the_exact_filter() -> None:
    rng = np.random.default_rng(3)
    image = np.kron(rng.integers(0, 256, (9, 12, 3)), np.ones((100, 100, 1))).astype(np.uint8)
    exact = Image.fromarray(image).resize((80, 60), Image.Resampling.LANCZOS)
    difference = np.abs(resize_image(image, (60, 80)).astype(int) - np.asarray(exact))
    assert difference.mean() < 1


# URLs


@pytest.fixture
def site(tmp_path, monkeypatch):
    """A web server on this machine, whose address counts as public for the test."""
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    from textseg import fetching

    pages: dict[str, tuple[int, dict[str, str], bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            status, headers, body = pages.get(self.path, (404, {}, b""))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            if "Content-Length" not in headers:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    monkeypatch.setattr(fetching, "is_public", lambda address: address == "127.0.0.1")
    yield f"http://127.0.0.1:{server.server_port}", pages
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_url_is_fetched_only_if_allowed(site, rgb):
    base, pages = site
    pages["/a%20b.png?size=1"] = (200, {}, encoded(Image.fromarray(rgb)))
    pages["/moved"] = (302, {"Location": "/a%20b.png?size=1"}, b"")
    for path in ("/a b.png?size=1", "/a%20b.png?size=1#part", "/moved"):
        one_line(base + path, "allow_url=True")
        np.testing.assert_array_equal(load_image(base + path, allow_url=True), rgb)


def test_answers_that_are_refused(site, monkeypatch):
    base, pages = site
    pages["/loop"] = (302, {"Location": "/loop"}, b"")
    pages["/inside"] = (302, {"Location": "http://10.0.0.1/secret"}, b"")
    pages["/file"] = (302, {"Location": "file:///etc/passwd"}, b"")
    pages["/page"] = (200, {}, b"<html>hello</html>")
    pages["/empty"] = (200, {}, b"")
    pages["/short"] = (200, {"Content-Length": "500"}, b"cut")
    pages["/announced"] = (200, {"Content-Length": str(10**9)}, b"")
    one_line(base + "/loop", "redirect at most 3 times", allow_url=True)
    one_line(base + "/inside", "public address, got 10.0.0.1", allow_url=True)
    one_line(base + "/file", "must be http or https", allow_url=True)
    one_line(base + "/page", "in no known format", allow_url=True)
    one_line(base + "/empty", "0 bytes", allow_url=True)
    one_line(base + "/short", "early|cannot be fetched", allow_url=True)
    one_line(base + "/announced", "at most .* bytes", allow_url=True)
    one_line(base + "/none", "status 200, got 404", allow_url=True)


def test_a_body_without_a_length_still_has_a_limit(site):
    from textseg.fetching import fetch

    base, pages = site
    pages["/long"] = (200, {}, b"x" * 1001)
    assert len(fetch(base + "/long", max_bytes=1001)) == 1001
    with pytest.raises(ImageError, match="at most 1000 bytes"):
        fetch(base + "/long", max_bytes=1000)


def test_a_slow_answer_is_given_up(monkeypatch):
    import socket
    import time

    from textseg import fetching

    monkeypatch.setattr(fetching, "is_public", lambda address: True)
    server = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def trickle():
        with server.accept()[0] as connection:
            while not stop.wait(0.02):
                try:
                    connection.send(b"H")
                except OSError:
                    return

    thread = threading.Thread(target=trickle, daemon=True)
    thread.start()
    start = time.monotonic()
    with pytest.raises(ImageError, match="too long"):
        fetching.fetch(f"http://127.0.0.1:{server.getsockname()[1]}/", max_seconds=0.3)
    assert time.monotonic() - start < 5
    stop.set()
    thread.join()
    server.close()


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[::ffff:127.0.0.1]",
        "[fe80::1]",
        "[fd00::1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::]",
        "[ff02::1]",
    ],
)
def test_private_addresses_are_never_asked(host, monkeypatch):
    import socket

    def connect(*args, **options):
        raise AssertionError("connected")

    monkeypatch.setattr(socket, "create_connection", connect)
    one_line(f"http://{host}/image.png", "public address|cannot be found", allow_url=True)


def test_a_name_with_one_private_address_is_refused(monkeypatch):
    import socket

    answers = [(2, 1, 6, "", ("93.184.216.34", 80)), (2, 1, 6, "", ("192.168.0.1", 80))]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: answers)
    one_line("http://mixed.example/", "got 192.168.0.1 for 'mixed.example'", allow_url=True)


def test_the_connection_goes_to_the_address_that_was_checked(monkeypatch):
    """A name server that answers differently the second time gains nothing."""
    import socket

    lookups, connected = [], []

    def look_up(host, *args, **options):
        lookups.append(host)
        address = "93.184.216.34" if len(lookups) == 1 else "127.0.0.1"
        return [(2, 1, 6, "", (address, 80))]

    def connect(address, *args, **options):
        connected.append(address)
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", connect)
    one_line("http://rebind.example/a.png", "Connection refused", allow_url=True)
    assert lookups == ["rebind.example"] and connected == [("93.184.216.34", 80)]


@pytest.mark.parametrize(
    "url", ["http://", "http://user:secret@example.com/", "http://a:99999/", "http://[::1/"]
)
def test_malformed_urls(url):
    one_line(url, "URL", allow_url=True)


# What a file holds beside its pixels, and values that use a part of their range


def png_with(data: bytes, kind: bytes, body: bytes, last: bool = False) -> bytes:
    """A PNG with one more chunk, behind its header or before its end."""
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
    place = len(data) - 12 if last else 33
    return data[:place] + chunk + data[place:]


LONG = zlib.compress(b"a" * (2**20 + 1))
TEXTS = [(b"zTXt", b"note\0\0" + LONG), (b"iTXt", b"note\0\1\0\0\0" + LONG),
         (b"iCCP", b"profile\0\0" + LONG), (b"tEXt", b"note\0" + b"a" * 70_000_000)]  # fmt: skip


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("kind", "body"), TEXTS, ids=[kind.decode() for kind, _ in TEXTS])
def test_long_texts_do_not_keep_a_png_from_being_read(rgb, tmp_path, kind, body, last):
    data = png_with(encoded(Image.fromarray(rgb)), kind, body, last)
    with pytest.raises(ValueError, match=r"[Dd]ecompressed data|text chunks"):
        Image.open(io.BytesIO(data)).load()
    path = tmp_path / "a.png"
    path.write_bytes(data)
    for source in (path, data, io.BytesIO(data)):
        np.testing.assert_array_equal(load_image(source), rgb)
    assert read_label(path).packet == "" and read_provenance(path) is None


def test_short_texts_beside_a_long_one_are_read(rgb, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.fromarray(rgb), exif=exif)
    for kind, body in (TEXTS[0], (b"tEXt", b'textseg\0{"textseg": 1}'), TEXTS[1]):
        data = png_with(data, kind, body)
    np.testing.assert_array_equal(load_image(data), np.rot90(rgb, -1))
    (tmp_path / "a.png").write_bytes(data)
    assert read_provenance(tmp_path / "a.png") == {"textseg": 1}


def test_a_text_that_inflates_to_a_gigabyte_is_not_inflated(rgb):
    squeezer = zlib.compressobj(9)
    part = b"a" * 2**24
    bomb = b"".join(squeezer.compress(part) for _ in range(64)) + squeezer.flush()
    tracemalloc.start()
    load_image(png_with(encoded(Image.fromarray(rgb)), b"zTXt", b"note\0\0" + bomb))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 32 * 2**20


@pytest.mark.parametrize("depth", [8, 10, 12, 14])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_few_bits_in_sixteen_are_not_black(tmp_path, depth, channels):
    values = np.random.default_rng(depth).integers(0, 1 << depth, (24, 36, channels), np.uint16)
    values[0, 0, 0] = (1 << depth) - 1
    if channels == 4:
        values[..., 3] = (1 << depth) - 1
    expected = (values[..., :3] >> depth - 8).astype(np.uint8) * np.ones(3, np.uint8)
    rgb_first = values[..., [2, 1, 0, 3][:channels]] if channels > 1 else values
    sources: list = [values, torch.from_numpy(values)]
    for suffix in (".png", ".tiff"):
        assert cv2.imwrite(str(tmp_path / f"deep{suffix}"), rgb_first)
        sources.append(tmp_path / f"deep{suffix}")
    if channels == 1:
        sources.append(Image.fromarray(values[..., 0]))
    for source in sources:
        with pytest.warns(ImageWarning, match=f"of at most {(1 << depth) - 1}: .* {depth}-bit"):
            np.testing.assert_array_equal(load_image(source), expected)


def test_alpha_of_sixteen_bits_beside_colours_of_twelve():
    values = np.full((2, 3, 4), 4095, np.uint16)
    values[..., 3] = [[0, 32768, 65535]] * 2
    values[..., 1] = 0
    with pytest.warns(ImageWarning):
        assert load_image(values)[0].tolist() == [[255, 255, 255], [255, 127, 255], [255, 0, 255]]


def test_a_file_that_says_its_range_is_taken_at_its_word():
    values = np.array([[0, 100, 300]], np.uint16)
    tagged = encoded(Image.fromarray(values), "TIFF", tiffinfo={281: 4095})
    assert load_image(tagged)[0, :, 0].tolist() == [0, 100 >> 4, 300 >> 4]
    whole = Image.fromarray(np.array([[0, 7, 255]], np.int32))
    for source in (whole, encoded(whole, "TIFF")):
        assert load_image(source)[0, :, 0].tolist() == [0, 7, 255]


@pytest.mark.parametrize("suffix", [".png", ".tiff"])
def test_black_and_bright_sixteen_bit_files_need_no_warning(tmp_path, suffix):
    for most in (0, 16384, 65535):
        values = np.full((4, 6, 3), most, np.uint16)
        assert cv2.imwrite(str(tmp_path / f"a{suffix}"), values)
        assert (load_image(tmp_path / f"a{suffix}") == most >> 8).all()


def test_the_command_line_says_a_warning_in_one_line(tmp_path):
    cv2.imwrite(str(tmp_path / "dark.png"), np.full((8, 12), 4000, np.uint16))
    program = (
        "from textseg.cli import main; from textseg.image import load_image\n"
        "main(['inspect', 'dark.png']); load_image('dark.png')"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stderr == (
        "textseg: warning: 'dark.png' has 16-bit values of at most 4000: taken for 12-bit ones\n"
    )
