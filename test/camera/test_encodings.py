"""Every encoding by hand-made pixels, and messages that contradict themselves."""

import array
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo2_ros.camera.encodings import (
    IMAGE_ENCODINGS,
    decode_compressed,
    decode_depth,
    decode_image,
    encode_jpeg,
)
from molmo2_ros.errors import ImageError


def message(data, encoding, *, width=None, height=None, step=None, is_bigendian=False):
    """Fields of a sensor_msgs/Image that holds an array's rows."""
    rows = np.ascontiguousarray(data)
    return {
        "height": rows.shape[0] if height is None else height,
        "width": rows.shape[1] if width is None else width,
        "encoding": encoding,
        "step": rows.strides[0] if step is None else step,
        "is_bigendian": is_bigendian,
        "data": rows.tobytes(),
    }


def random_image(height=6, width=8, channels=3, dtype=np.uint8):
    random = np.random.default_rng(0)
    return random.integers(0, np.iinfo(dtype).max, (height, width, channels), dtype, endpoint=True)


def test_rgb_is_taken_as_it_is_in_memory_of_its_own():
    image = random_image()
    data = array.array("B", image.tobytes())

    decoded = decode_image(**{**message(image, "rgb8"), "data": data})
    data[0] ^= 255

    assert np.array_equal(decoded, image)
    assert decoded.flags.owndata
    assert decoded.flags.writeable


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("bgr8", [2, 1, 0]), ("rgba8", [0, 1, 2]), ("bgra8", [2, 1, 0])],
)
def test_channels_are_put_in_order_and_alpha_is_dropped(encoding, order):
    image = random_image(channels=4 if "a8" in encoding else 3)

    assert np.array_equal(decode_image(**message(image, encoding)), image[..., order])


@pytest.mark.parametrize("is_bigendian", [False, True])
@pytest.mark.parametrize("encoding", ["rgb16", "bgr16", "rgba16", "bgra16"])
def test_16_bit_colour_is_scaled_from_either_byte_order(encoding, is_bigendian):
    image = random_image(channels=4 if "a16" in encoding else 3, dtype=np.uint16)
    stored = image.astype(">u2" if is_bigendian else "<u2")

    decoded = decode_image(**message(stored, encoding, is_bigendian=is_bigendian))

    order = [2, 1, 0] if encoding.startswith("bgr") else [0, 1, 2]
    assert np.array_equal(decoded, np.rint(image[..., order] / 257).astype(np.uint8))


def test_mono_fills_all_three_channels():
    grey = random_image(channels=1)[..., 0]

    assert np.array_equal(decode_image(**message(grey, "mono8")), np.stack([grey] * 3, axis=-1))
    deep = np.array([[0, 128, 129, 385, 386, 65535]], "<u2")  # 129 / 257 is just above a half
    assert decode_image(**message(deep, "mono16"))[0, :, 0].tolist() == [0, 0, 1, 1, 2, 255]


# Where the colours stand in each block of 2x2, as the encoding's name spells it.
@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_mosaic_of_one_colour_gives_that_colour(pattern, depth):
    colour = {"r": 200, "g": 100, "b": 50}
    block = np.array([colour[letter] for letter in pattern]).reshape(2, 2)
    dtype, scale = (np.uint8, 1) if depth == 8 else (np.uint16, 257)
    mosaic = (np.tile(block, (4, 5)) * scale).astype(dtype)

    decoded = decode_image(**message(mosaic, f"bayer_{pattern}{depth}"))

    assert (decoded == [200, 100, 50]).all()


def bt601(y, u, v):
    """Studio-swing YUV to RGB."""
    y, u, v = 1.164383 * (y - 16), u - 128, v - 128
    rgb = [y + 1.596027 * v, y - 0.391762 * u - 0.812968 * v, y + 2.017232 * u]
    return np.clip(np.rint(rgb), 0, 255)


@pytest.mark.parametrize(
    ("encoding", "order"),
    [("uyvy", "uyvy"), ("yuv422", "uyvy"), ("yuyv", "yuyv"), ("yuv422_yuy2", "yuyv")],
)
def test_yuv_422_pairs_share_their_colour(encoding, order):
    values = {"u": 90, "v": 180}
    luma = iter([60, 150])
    pair = [values.get(letter) or next(luma) for letter in order]
    rows = np.tile(np.array(pair, np.uint8), (3, 4)).reshape(3, 8, 2)

    decoded = decode_image(**message(rows, encoding))

    assert decoded.shape == (3, 8, 3)
    assert decoded[1, 2] == pytest.approx(bt601(60, 90, 180), abs=1)
    assert decoded[1, 3] == pytest.approx(bt601(150, 90, 180), abs=1)


@pytest.mark.parametrize(("encoding", "chroma"), [("nv12", [90, 180]), ("nv21", [180, 90])])
@pytest.mark.parametrize("padding", [0, 16])
def test_semi_planar_rows_carry_colour_below_the_picture(encoding, chroma, padding):
    height, width = 4, 6
    rows = np.zeros((height * 3 // 2, width + padding), np.uint8)
    rows[:height, :width] = 120
    rows[height:, :width] = np.tile(chroma, width // 2)

    decoded = decode_image(**message(rows, encoding, height=height, width=width))

    assert decoded.shape == (height, width, 3)
    assert (np.abs(decoded - bt601(120, 90, 180)) <= 1).all()


@settings(max_examples=40, deadline=None)
@given(
    encoding=st.sampled_from(IMAGE_ENCODINGS),
    half_height=st.integers(1, 5),
    half_width=st.integers(1, 5),
    padding=st.integers(0, 9),
    seed=st.integers(0, 99),
)
def test_padded_rows_decode_as_packed_ones(encoding, half_height, half_width, padding, seed):
    height, width = 2 * half_height, 2 * half_width
    wide = 2 if encoding.endswith("16") else 1
    channels = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.get(encoding.rstrip("816"), 1)
    channels = 2 if encoding.startswith(("yuv", "yuy", "uyv")) else channels
    num_rows = height * 3 // 2 if encoding.startswith("nv") else height
    random = np.random.default_rng(seed)
    packed = random.integers(0, 256, (num_rows, width * channels * wide), np.uint8)
    padded = np.pad(packed, ((0, 0), (0, padding)), constant_values=7)
    size = {"height": height, "width": width}

    decoded = decode_image(**message(padded, encoding, **size))

    assert decoded.shape == (height, width, 3)
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, decode_image(**message(packed, encoding, **size)))


def good(**change):
    return {**message(random_image(4, 6), "rgb8"), **change}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (good(encoding="rgb9"), "unknown image encoding 'rgb9'; expected one of rgb8"),
        (good(encoding=""), "unknown image encoding ''"),
        (good(encoding="8UC3"), "'8UC3'; it names a number type but no order of colours"),
        (good(encoding="16UC1"), "a depth image belongs on the depth topic"),
        (good(height=0), "image is 6x0 pixels, expected at least 1x1"),
        (good(width=0, step=0), "image is 0x4 pixels"),
        (good(step=17), "step is 17 bytes, expected at least 18 for 6 pixels of rgb8"),
        (good(step=0), "step is 0 bytes"),
        (good(step=24), r"data has 72 bytes, expected 96 \(4 rows of 24\)"),
        (good(data=b""), "data has 0 bytes, expected 72"),
        (good(data=bytes(71)), "data has 71 bytes, expected 72"),
        (good(data=bytes(73)), "the message was cut or filled wrongly"),
        (good(encoding="rgba8"), "step is 18 bytes, expected at least 24"),
        (good(encoding="yuyv", width=5), "the width must be even"),
        (good(encoding="nv12", height=3), "the height must be even"),
        (good(height=2**32 - 1), "data has 72 bytes"),
    ],
)
def test_contradictory_image_message_is_refused_with_its_values(fields, words):
    with pytest.raises(ImageError, match=words):
        decode_image(**fields)


def test_depth_in_millimetres_becomes_metres_and_zero_is_unknown():
    depth = np.array([[0, 1, 1500, 65535]], "<u2")

    decoded = decode_depth(**message(depth, "16UC1"))

    assert decoded.dtype == np.float32
    assert decoded[0, 1:] == pytest.approx([0.001, 1.5, 65.535])
    assert np.isnan(decoded[0, 0])
    swapped = message(depth.astype(">u2"), "16UC1", is_bigendian=True)
    assert np.array_equal(decode_depth(**swapped), decoded, equal_nan=True)


def test_depth_in_metres_keeps_numbers_and_nothing_else():
    # REP 118: NaN unknown, -inf too near, +inf too far
    depth = np.array([[1.25, 0, -2, np.nan, np.inf, -np.inf]], "<f4")

    decoded = decode_depth(**message(depth, "32FC1"))

    assert decoded[0, 0] == np.float32(1.25)
    assert np.isnan(decoded[0, 1:]).all()
    assert decoded.flags.writeable


def test_padded_depth_rows_are_read():
    depth = np.zeros((2, 5), "<u2")
    depth[:, :3] = [[1, 2, 3], [4, 5, 6]]

    decoded = decode_depth(**message(depth, "16UC1", width=3))

    assert decoded == pytest.approx(np.array([[1, 2, 3], [4, 5, 6]]) / 1000)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"encoding": "rgb8"}, "unknown depth encoding 'rgb8'; expected 16UC1"),
        ({"step": 5}, "step is 5 bytes, expected at least 6"),
        ({"data": bytes(11)}, "data has 11 bytes, expected 12"),
        ({"width": 0}, "image is 0x2 pixels"),
    ],
)
def test_contradictory_depth_message_is_refused(change, words):
    with pytest.raises(ImageError, match=words):
        decode_depth(**{**message(np.zeros((2, 3), "<u2"), "16UC1"), **change})


def encoded(image, suffix):
    return cv2.imencode(suffix, image)[1].tobytes()


@pytest.mark.parametrize("image_format", ["png", "rgb8; png compressed bgr8", ""])
def test_png_comes_back_exactly(image_format):
    bgr = random_image()

    decoded = decode_compressed(encoded(bgr, ".png"), image_format)

    assert np.array_equal(decoded, bgr[..., ::-1])


def test_compressed_grey_alpha_and_16_bit_become_rgb():
    grey, deep = random_image(channels=1), random_image(dtype=np.uint16)
    alpha = random_image(channels=4)

    assert np.array_equal(decode_compressed(encoded(grey, ".png")), np.repeat(grey, 3, axis=2))
    assert np.array_equal(decode_compressed(encoded(alpha, ".png")), alpha[..., 2::-1])
    assert np.array_equal(
        decode_compressed(encoded(deep, ".png")), np.rint(deep[..., ::-1] / 257).astype(np.uint8)
    )


def test_channels_that_an_old_publisher_stored_as_rgb_are_not_swapped():
    image = random_image()
    alpha = random_image(channels=4)

    stored = decode_compressed(encoded(image, ".png"), "rgb8; png compressed rgb8")

    assert np.array_equal(stored, image)
    assert np.array_equal(
        decode_compressed(encoded(alpha, ".png"), "rgba8; png compressed rgba8"), alpha[..., :3]
    )


def test_jpeg_round_trip_is_close_and_larger_quality_is_closer():
    y, x = np.mgrid[0:64, 0:96]
    image = np.stack([x * 2, y * 3, 255 - x], axis=-1).astype(np.uint8)

    errors = {}
    for quality in (20, 95):
        back = decode_compressed(encode_jpeg(image, quality), "jpeg")
        errors[quality] = np.abs(back.astype(int) - image).mean()

    assert errors[95] < errors[20] < 6
    assert errors[95] < 2


@pytest.mark.parametrize(
    ("data", "image_format", "words"),
    [
        (b"", "jpeg", "0 bytes in compressed image format 'jpeg' cannot be decoded"),
        (b"not a picture", "jpeg", "expected one whole JPEG or PNG"),
        (b"\x00\x00\x00\x01\x67", "h264", "republish the topic as raw"),
        (b"1234", "16UC1; compressedDepth png", "is a depth image"),
    ],
)
def test_undecodable_compressed_image_is_refused(data, image_format, words):
    with pytest.raises(ImageError, match=words):
        decode_compressed(data, image_format)


@pytest.mark.parametrize("side", [5761, 20_000, 100_000])
def test_picture_that_claims_a_monstrous_size_is_refused(side):
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b"")]
    monster = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )

    with pytest.raises(ImageError, match=f"claims {side**2 / 1e6:.0f} megapixels, .* at most 33"):
        decode_compressed(monster, "png")


@pytest.mark.parametrize("quality", [80, 101], ids=["lossy", "lossless"])
@pytest.mark.parametrize(("width", "height"), [(16, 8), (9000, 8000)])
def test_webp_is_read_up_to_a_bearable_size(width, height, quality):
    plain = np.full((height, width, 3), 90, np.uint8)
    data = cv2.imencode(".webp", plain, [cv2.IMWRITE_WEBP_QUALITY, quality])[1].tobytes()
    if width == 16:
        assert np.abs(decode_compressed(data, "webp").astype(int) - 90).max() <= 2
    else:
        with pytest.raises(ImageError, match="claims 72 megapixels"):
            decode_compressed(data, "webp")


def test_extended_webp_tells_its_canvas():
    data = b"RIFF\x00\x00\x00\x00WEBPVP8X\x0a\x00\x00\x00" + bytes(4) + b"\xff\x3f\x00" * 2
    with pytest.raises(ImageError, match="claims 268 megapixels"):
        decode_compressed(data, "webp")


@pytest.mark.parametrize("kind", [".bmp", ".tiff", ".ppm"])
def test_files_that_no_camera_sends_are_not_decoded(kind):
    with pytest.raises(ImageError, match=r"expected one whole JPEG or PNG per message \(or WebP\)"):
        decode_compressed(encoded(random_image(8, 8), kind), kind)


def test_jpeg_that_claims_a_monstrous_size_is_refused():
    small = cv2.imencode(".jpg", random_image(16, 16))[1].tobytes()
    monster = small.replace(b"\x00\x10\x00\x10\x03", b"\xff\xff\xff\xff\x03", 1)
    assert monster != small

    with pytest.raises(ImageError, match="claims 4295 megapixels"):
        decode_compressed(monster, "jpeg")


def test_png_is_refused_where_it_was_cut_or_a_chunk_claims_gigabytes():
    whole = encoded(random_image(32, 32), ".png")
    assert decode_compressed(whole + bytes(9), "png").shape == (32, 32, 3)

    at = whole.index(b"IDAT") - 4
    claims = whole[:at] + b"\x7f\xff\xff\xf0" + whole[at + 4 :]
    for data in (claims, *(whole[:length] for length in range(1, len(whole), 101)), whole[:-1]):
        with pytest.raises(ImageError, match="cannot be decoded"):
            decode_compressed(data, "png")


@pytest.mark.parametrize("progressive", [0, 1])
def test_cut_jpeg_is_refused_wherever_it_was_cut(progressive):
    flags = [cv2.IMWRITE_JPEG_PROGRESSIVE, progressive]
    whole = cv2.imencode(".jpg", random_image(32, 32), flags)[1].tobytes()
    # Cameras pad their buffers with zeros behind the end.
    assert decode_compressed(whole + bytes(9), "jpeg").shape == (32, 32, 3)

    for length in (*range(0, len(whole), 37), len(whole) - 2, len(whole) - 1):
        with pytest.raises(ImageError, match=f"^{length} bytes .* cannot be decoded"):
            decode_compressed(whole[:length], "jpeg")


@pytest.mark.parametrize(
    ("image", "quality", "words"),
    [
        (np.zeros((4, 4), np.uint8), 80, "expected non-empty uint8"),
        (np.zeros((4, 4, 3), np.float32), 80, "image is float32"),
        (np.zeros((0, 4, 3), np.uint8), 80, "expected non-empty"),
        (np.zeros((4, 4, 3), np.uint8), 0, "quality is 0, expected 1 to 100"),
        (np.zeros((1, 65536, 3), np.uint8), 80, "cannot hold an image of 65536x1"),
    ],
)
def test_picture_that_jpeg_cannot_hold_is_refused(image, quality, words):
    with pytest.raises(ImageError, match=words):
        encode_jpeg(image, quality)
