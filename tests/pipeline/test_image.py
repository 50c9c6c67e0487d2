from __future__ import annotations

import io
import struct
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from pipeline.errors import StageError
from pipeline.image import ImageLimits, crop, decode, decode_region, read_size
from pipeline.stages import UInt8Array

ORIENTATION = 0x0112

repeatable = settings(derandomize=True, deadline=None, max_examples=300)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def smooth(height: int = 60, width: int = 90) -> Image.Image:
    """A picture that survives JPEG."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x * 2, y * 3, 255 - x - y], -1).clip(0, 255).astype(np.uint8))


def png(
    width: int, height: int, depth: int, colour: int, rows: bytes, *, before: bytes = b"", after: bytes = b""
) -> bytes:
    """A PNG by hand, for what PIL does not write. `rows` are unfiltered and without their filter bytes."""
    stride = len(rows) // height
    raw = b"".join(b"\0" + rows[i * stride : (i + 1) * stride] for i in range(height))
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + before + chunk(b"IDAT", zlib.compress(raw)) + after + chunk(b"IEND", b"")


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(StageError) as caught:
        call()
    assert caught.value.param == "image"
    assert caught.value.__cause__ is None  # PIL's text travels nowhere
    return caught.value.code


# ---- formats and modes


@pytest.mark.parametrize(("format", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("WEBP", {}), ("JPEG", {})])
def test_formats_equal_pil(format: str, options: dict[str, Any]) -> None:
    data = encoded(smooth(), format, **options)
    result = decode(data)
    np.testing.assert_array_equal(result, np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
    assert result.dtype == np.uint8
    assert result.shape == (60, 90, 3)
    assert result.flags.c_contiguous
    assert result.flags.writeable
    assert read_size(data) == (60, 90)


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_alpha_is_composited_on_white(format: str) -> None:
    rgba = noise(40, 50, 4)
    rgba[:5, :, 3], rgba[5:10, :, 3] = 0, 255
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    result = decode(encoded(Image.fromarray(rgba), format, **options)).astype(float)
    alpha = rgba[..., 3:] / 255
    np.testing.assert_allclose(result, rgba[..., :3] * alpha + 255 * (1 - alpha), atol=1)
    assert (result[:5] == 255).all()
    np.testing.assert_array_equal(result[5:10], rgba[5:10, :, :3])


def test_grey_with_alpha() -> None:
    la = noise(20, 30, 2)
    result = decode(encoded(Image.fromarray(la, "LA"), "PNG")).astype(float)
    alpha = la[..., 1] / 255
    np.testing.assert_allclose(result, np.repeat((la[..., 0] * alpha + 255 * (1 - alpha))[..., None], 3, -1), atol=1)


@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_grey(format: str) -> None:
    grey = np.asarray(smooth().convert("L"))
    result = decode(encoded(Image.fromarray(grey), format, **({"quality": 100} if format == "JPEG" else {})))
    np.testing.assert_allclose(result.astype(int), np.repeat(grey[..., None], 3, -1), atol=3 if format == "JPEG" else 0)


def test_one_bit() -> None:
    bits = noise(9, 21, 1) > 127
    result = decode(encoded(Image.fromarray(bits), "PNG"))
    np.testing.assert_array_equal(result, np.repeat(bits[..., None], 3, -1) * np.uint8(255))


def test_palette() -> None:
    image = smooth().quantize(16)
    expected = np.array(image.getpalette(), np.uint8).reshape(-1, 3)[np.asarray(image)]
    np.testing.assert_array_equal(decode(encoded(image, "PNG")), expected)


@pytest.mark.parametrize("alphas", [bytes([255, 0, 128, 64]), bytes([0]), bytes([255, 0])])
def test_palette_with_transparency(alphas: bytes) -> None:
    index = np.arange(24, dtype=np.uint8).reshape(4, 6) % 4
    image = Image.fromarray(index, "P")
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [10, 20, 30]], np.uint8)
    image.putpalette(palette.tobytes())
    data = encoded(image, "PNG", transparency=alphas)
    alpha = np.array(list(alphas) + [255] * (4 - len(alphas)))[index][..., None] / 255
    np.testing.assert_allclose(decode(data).astype(float), palette[index] * alpha + 255 * (1 - alpha), atol=1)


def test_sixteen_bit_grey_is_scaled_not_clipped() -> None:
    values = np.linspace(0, 65535, 40 * 50).astype(np.uint16).reshape(40, 50)
    result = decode(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_allclose(result[..., 0], values / 257, atol=1)
    assert (result == result[..., :1]).all()
    assert (result.min(), result.max()) == (0, 255)


def test_sixteen_bit_colour_grey_and_alpha_agree() -> None:
    grey = np.random.default_rng(1).integers(0, 65536, (8, 12), dtype=np.uint16)
    plain = decode(png(12, 8, 16, 0, grey.astype(">u2").tobytes()))
    colour = decode(png(12, 8, 16, 2, np.repeat(grey, 3).astype(">u2").tobytes()))
    opaque = np.stack([grey, np.full_like(grey, 65535)], -1)
    np.testing.assert_array_equal(plain, colour)
    np.testing.assert_array_equal(plain, decode(png(12, 8, 16, 4, opaque.astype(">u2").tobytes())))
    rgba = np.concatenate([np.repeat(grey[..., None], 3, -1), np.zeros_like(grey)[..., None]], -1)
    assert (decode(png(12, 8, 16, 6, rgba.astype(">u2").tobytes())) == 255).all()


@pytest.mark.parametrize(
    ("depth", "colour", "samples", "key"),
    [
        (1, 0, [0, 1, 1, 0, 1, 0, 0, 1], [1]),
        (2, 0, [0, 1, 2, 3], [3]),
        (4, 0, [0, 15, 7, 1], [7]),
        (8, 0, [0, 255, 7, 1], [7]),
        (8, 2, [1, 2, 3, 1, 2, 4], [1, 2, 3]),
        (16, 0, [1, 2, 300, 301], [300]),
        (16, 2, [0x0102, 0x0304, 0x0506, 0x1102, 0x0304, 0x0506], [0x0102, 0x0304, 0x0506]),
    ],
)
def test_transparent_colour_of_a_png_without_alpha(depth: int, colour: int, samples: list[int], key: list[int]) -> None:
    bits = "".join(f"{sample:0{depth}b}" for sample in samples)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    channels = 3 if colour == 2 else 1
    pixels = [samples[i : i + channels] for i in range(0, len(samples), channels)]
    transparency = chunk(b"tRNS", b"".join(struct.pack(">H", value) for value in key))
    result = decode(png(len(pixels), 1, depth, colour, row, before=transparency))[0]
    for got, pixel in zip(result, pixels, strict=True):
        wanted = [255] * 3 if pixel == key else [value * 255 / (2**depth - 1) for value in pixel] * (3 // channels)
        np.testing.assert_allclose(got, wanted, atol=1)


def test_cmyk_jpeg() -> None:
    picture = smooth()
    data = encoded(picture.convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in data[:100]  # PIL writes it inverted, as Adobe does
    np.testing.assert_allclose(decode(data).astype(int), np.asarray(picture).astype(int), atol=8)


def test_exotic_jpegs() -> None:
    picture = smooth()
    for options in ({"progressive": True}, {"subsampling": 2}, {"restart_marker_rows": 1}):
        data = encoded(picture, "JPEG", quality=95, **options)
        np.testing.assert_allclose(decode(data).astype(int), np.asarray(picture).astype(int), atol=30)
    fill = data[:2] + b"\xff" * 9 + data[2:]  # fill bytes before a marker are legal
    np.testing.assert_array_equal(decode(fill), decode(data))
    assert read_size(fill) == (60, 90)


# ---- orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_orientation_is_applied_once(format: str, orientation: int) -> None:
    picture = smooth(30, 50)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(picture, format, exif=exif)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    result = decode(data)
    np.testing.assert_array_equal(result, np.asarray(upright))
    assert read_size(data) == result.shape[:2] == ((50, 30) if orientation >= 5 else (30, 50))


def test_orientation_behind_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    grey = noise(3, 5, 1)
    data = png(5, 3, 8, 0, grey.tobytes(), after=chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    assert read_size(data) == (5, 3)
    np.testing.assert_array_equal(decode(data)[..., 0], np.rot90(grey, -1))


def tiff(order: str, kind: int, value: int, count: int = 1, tag: int = ORIENTATION) -> bytes:
    field = struct.pack(order + {1: "B3x", 3: "H2x", 4: "L", 5: "L"}[kind], value)
    head = (b"II" if order == "<" else b"MM") + struct.pack(order + "HL", 42, 8)
    return b"Exif\0\0" + head + struct.pack(order + "HHHL", 1, tag, kind, count) + field


@pytest.mark.parametrize(
    ("exif", "applied"),
    [
        (tiff("<", 3, 6), True),
        (tiff(">", 3, 6), True),
        (tiff(">", 4, 6), True),
        (tiff(">", 1, 6), True),
        (tiff("<", 3, 0), False),
        (tiff("<", 3, 9), False),
        (tiff("<", 5, 6), False),
        (tiff("<", 3, 6, count=7), False),
        (tiff("<", 3, 6, tag=0x0100), False),
        (tiff("<", 3, 6)[:-6], False),
        (b"Exif\0\0", False),
        (b"Exif\0\0XX*\0\x08\0\0\0", False),
        (b"Exif\0\0XX*\0" + b"\xff" * 20, False),  # without a byte order there are no numbers
        (b"Exif\0\0II*\0\xff\xff\xff\xff", False),
    ],
)
def test_corrupt_exif_never_spoils_an_image(exif: bytes, applied: bool) -> None:
    data = encoded(smooth(10, 20), "WEBP", exif=exif)
    assert read_size(data) == ((20, 10) if applied else (10, 20))
    assert decode(data).shape[:2] == read_size(data)


def test_exif_behind_an_odd_chunk_of_a_webp() -> None:
    data = encoded(smooth(10, 20), "WEBP", exif=tiff("<", 3, 6), icc_profile=b"odd")
    assert data.index(b"ICCP\3\0\0\0odd\0") < data.index(b"EXIF")
    assert read_size(data) == (20, 10)


# ---- animations: the first frame


@pytest.mark.parametrize("format", ["PNG", "WEBP"])
def test_first_frame_only(format: str) -> None:
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "green", "blue")]
    data = encoded(frames[0], format, save_all=True, append_images=frames[1:], duration=50, lossless=True)
    assert Image.open(io.BytesIO(data)).n_frames == 3  # type: ignore[attr-defined]
    np.testing.assert_array_equal(decode(data), np.full((6, 8, 3), (255, 0, 0), np.uint8))


# ---- refusals


@pytest.mark.parametrize("format", ["GIF", "TIFF", "BMP", "AVIF", "PPM", "ICO", "TGA", "JPEG2000"])
def test_other_formats_are_refused(format: str) -> None:
    data = encoded(smooth(), format)
    assert refusal(lambda: read_size(data)) == refusal(lambda: decode(data)) == "image_format_not_allowed"


@pytest.mark.parametrize("data", [b"hello, this is no image", b"<svg/>", b"GIF", b"RIFF\x10\0\0\0AVI LIST", b"\0" * 50])
def test_what_is_no_image_is_refused(data: bytes) -> None:
    assert refusal(lambda: decode(data)) == "image_format_not_allowed"


@pytest.mark.parametrize(
    "data", [b"", b"\xff", b"\xff\xd8\xff", b"\x89PNG", b"\x89PNG\r\n\x1a\n", b"RIFF", b"RIFF\0\0\0\0WEBP"]
)
def test_what_is_too_short_is_undecodable(data: bytes) -> None:
    assert refusal(lambda: decode(data)) == refusal(lambda: read_size(data)) == "image_undecodable"


@pytest.mark.parametrize(
    ("format", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})]
)
def test_truncated(format: str, options: dict[str, Any]) -> None:
    data = encoded(Image.fromarray(noise(64, 64)), format, **options)
    for part in range(1, 20):
        cut = data[: len(data) * part // 20]
        assert refusal(lambda cut=cut: decode(cut)) == "image_undecodable"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("height", "width", "ok"),
    [(100, 50, True), (50, 100, True), (101, 50, False), (50, 101, False), (1, 200, True), (1, 201, False)],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_pixel_and_side_limits_at_the_limit(format: str, height: int, width: int, ok: bool) -> None:
    data = encoded(Image.new("RGB", (width, height)), format)
    limits = ImageLimits(max_pixels=5_000, max_side=200)
    for call in (read_size, decode):
        if ok:
            call(data, limits)
        else:
            assert refusal(lambda call=call: call(data, limits)) == "image_too_large"  # type: ignore[misc]


def test_byte_limit_at_the_limit() -> None:
    data = encoded(smooth(), "PNG")
    assert read_size(data, ImageLimits(max_bytes=len(data))) == (60, 90)
    assert refusal(lambda: read_size(data, ImageLimits(max_bytes=len(data) - 1))) == "image_too_large"


def bombs() -> dict[str, bytes]:
    jpeg = bytearray(encoded(smooth(), "JPEG"))
    frame = jpeg.index(b"\xff\xc0")
    jpeg[frame + 5 : frame + 9] = struct.pack(">HH", 65_000, 65_000)
    webp = bytearray(encoded(smooth(), "WEBP", exif=tiff("<", 3, 1)))
    assert webp[12:16] == b"VP8X"
    webp[24:30] = (16_382).to_bytes(3, "little") * 2
    header = chunk(b"IHDR", struct.pack(">LLBBBBB", 2**31 - 1, 2**31 - 1, 8, 6, 0, 0, 0))
    return {
        "PNG": b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b""),
        "JPEG": bytes(jpeg),
        "WEBP": bytes(webp),
    }


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_bombs_are_refused_from_the_header(format: str) -> None:
    data = bombs()[format]
    before = Image.MAX_IMAGE_PIXELS
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert refusal(lambda: read_size(data)) == refusal(lambda: decode(data)) == "image_too_large"
    assert before == Image.MAX_IMAGE_PIXELS


def test_pils_own_limit_never_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PIL's limit far below ours, its warning (above the limit) and error (above twice) would both be due."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for format in ("JPEG", "PNG"):
            for picture in (smooth(60, 90), smooth(100, 90)):
                assert decode(encoded(picture, format)).shape == (*picture.size[::-1], 3)
        assert decode(encoded(smooth(60, 90), "WEBP")).shape == (60, 90, 3)


def test_a_second_header_is_no_way_around_the_limits() -> None:
    small = chunk(b"IHDR", struct.pack(">LLBBBBB", 2, 2, 8, 0, 0, 0, 0))
    large = png(400, 400, 8, 0, b"\0" * 160_000)
    two = large[:8] + small + large[8:]
    assert Image.open(io.BytesIO(two)).size == (400, 400)  # PIL believes the last
    assert refusal(lambda: decode(two, ImageLimits(max_pixels=1000))) == "image_undecodable"


@pytest.mark.parametrize(
    "filler", [b"\0", b"\xff", b"\xff\x00", b"\xff\xd0", b"\xff\xe5\0\2", b"\xff\xe1\xff\xffExif\0\0" + bytes(65_527)]
)
def test_endless_jpeg_headers_end_soon(filler: bytes) -> None:
    assert refusal(lambda: decode(b"\xff\xd8\xff\xe0\0\2" + filler * (8_000_000 // len(filler)))) == "image_undecodable"


def test_junk_between_jpeg_segments_is_taken_up_to_a_bound() -> None:
    data = encoded(smooth(), "JPEG")
    for junk, ok in ((b"\0" * 50_000, True), (b"\0" * 70_000, False)):
        spoiled = data[:20] + junk + data[20:]  # behind the first segment
        if ok:
            np.testing.assert_array_equal(decode(spoiled), decode(data))
        else:
            assert refusal(lambda spoiled=spoiled: read_size(spoiled)) == "image_undecodable"  # type: ignore[misc]


def test_no_size_is_undecodable() -> None:
    for width, height in ((0, 5), (5, 0)):
        header = chunk(b"IHDR", struct.pack(">LLBBBBB", width, height, 8, 0, 0, 0, 0))
        data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
        assert refusal(lambda data=data: read_size(data)) == "image_undecodable"  # type: ignore[misc]


_SEEDS = [
    encoded(smooth(12, 17), "JPEG", exif=tiff("<", 3, 6)),
    encoded(smooth(12, 17), "PNG"),
    encoded(smooth(12, 17).quantize(8), "PNG", transparency=3),
    encoded(smooth(12, 17), "WEBP", exif=tiff("<", 3, 6)),
    encoded(smooth(12, 17), "WEBP", lossless=True),
]


@pytest.mark.filterwarnings("ignore::UserWarning")  # PIL's, of EXIF and APNG blocks that make no sense
@repeatable
@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 10_000), st.binary(min_size=1, max_size=4)), min_size=1, max_size=4),
)
def test_any_damage_is_an_image_or_a_refusal(data: bytes, damage: list[tuple[int, bytes]]) -> None:
    broken = bytearray(data)
    for position, patch in damage:
        start = position % len(broken)
        broken[start : start + len(patch)] = patch
    limits = ImageLimits(max_pixels=100_000)
    try:
        result = decode(bytes(broken), limits)
    except StageError as error:
        assert error.code in ("image_undecodable", "image_format_not_allowed", "image_too_large")  # noqa: PT017
        return
    assert result.dtype == np.uint8
    assert result.shape == (*read_size(bytes(broken), limits), 3)


# ---- arrays and regions


def test_an_array_passes_through() -> None:
    image = noise(5, 7)
    assert decode(image) is image


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 7), np.uint8),
        np.zeros((5, 7, 4), np.uint8),
        np.zeros((0, 7, 3), np.uint8),
        np.zeros((5, 7, 3), np.float32),
    ],
)
def test_other_arrays_are_refused(image: Any) -> None:
    assert refusal(lambda: decode(image)) == "invalid_value"


@pytest.mark.parametrize("source", [None, "path.jpg", 3, bytearray(b"\xff\xd8\xff")])
def test_other_sources_are_refused(source: Any) -> None:
    assert refusal(lambda: decode(source)) == "invalid_value"


def test_crop() -> None:
    image = noise(5, 7)
    assert crop(image, None) is image
    np.testing.assert_array_equal(crop(image, (1, 2, 7, 5)), image[2:5, 1:7])
    assert np.shares_memory(crop(image, (0, 0, 7, 5)), image)


@pytest.mark.parametrize("region", [(-1, 0, 3, 3), (0, 0, 8, 5), (0, 0, 7, 6), (3, 0, 3, 5), (0, 4, 7, 2)])
def test_a_region_outside_the_image_is_refused(region: tuple[int, int, int, int]) -> None:
    with pytest.raises(StageError) as caught:
        crop(noise(5, 7), region)
    assert (caught.value.code, caught.value.param) == ("invalid_value", "region")


def test_a_region_of_an_image(monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    data, other = (encoded(Image.fromarray(each), "PNG") for each in (pixels, pixels[::-1].copy()))
    decoded = []

    def counting(*arguments: Any) -> UInt8Array:
        decoded.append(arguments)
        return decode(*arguments)

    monkeypatch.setattr("pipeline.image.decode", counting)
    for x in range(0, 50, 10):
        for source, upright in ((data, pixels), (other, pixels[::-1])):
            np.testing.assert_array_equal(decode_region(source, (x, 5, x + 10, 40)), upright[5:40, x : x + 10])
    assert len(decoded) == 2  # of images that come by turns, each once
    np.testing.assert_array_equal(decode_region(data, None), pixels)
    np.testing.assert_array_equal(decode_region(pixels, (1, 2, 3, 4)), pixels[2:4, 1:3])
    with pytest.raises(StageError, match="within the image"):
        decode_region(data, (0, 0, 61, 40))
    with pytest.raises(StageError, match="truncated"):
        decode_region(data[:-30], (0, 0, 10, 10))
