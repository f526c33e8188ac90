"""Image messages and compressed images to RGB and to metres, with cv_bridge's results.

The messages' fields come in plain, so that this file needs no ROS.
Source: sensor_msgs/Image, sensor_msgs/CompressedImage, sensor_msgs image_encodings.hpp, and the
conversions of cv_bridge's toCvCopy(message, "rgb8"), byte for byte (test/camera/test_cv_bridge.py).
Beyond cv_bridge: the newer names uyvy and yuyv, nv12 and nv21.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.jpeg import jpeg_size
from molmo2_ros.errors import ImageError

Pixels = npt.NDArray[Any]
_PNG = b"\x89PNG\r\n\x1a\n"
MAX_PIXELS = 7680 * 4320  # of a compressed image: 8K, 33 megapixels


@dataclass(frozen=True, slots=True)
class _Encoding:
    """How the bytes of one encoding become RGB."""

    num_channels: int
    num_bytes: int  # of one channel
    code: int | None  # OpenCV's conversion to RGB; None where the channels already are RGB
    rows: tuple[int, int] = (1, 1)  # rows of data for one row of image, as a fraction
    even_width: bool = False
    even_height: bool = False


def _both_depths(name: str, num_channels: int, code: int | None) -> dict[str, _Encoding]:
    return {
        f"{name}8": _Encoding(num_channels, 1, code),
        f"{name}16": _Encoding(num_channels, 2, code),
    }


_UYVY = _Encoding(2, 1, cv2.COLOR_YUV2RGB_UYVY, even_width=True)
_YUYV = _Encoding(2, 1, cv2.COLOR_YUV2RGB_YUY2, even_width=True)


def _semi_planar(code: int) -> _Encoding:
    return _Encoding(1, 1, code, rows=(3, 2), even_width=True, even_height=True)


# OpenCV names a Bayer pattern by its second row, ROS by its first: rggb is BG.
_ENCODINGS: dict[str, _Encoding] = {
    **_both_depths("rgb", 3, None),
    **_both_depths("bgr", 3, cv2.COLOR_BGR2RGB),
    **_both_depths("rgba", 4, cv2.COLOR_RGBA2RGB),
    **_both_depths("bgra", 4, cv2.COLOR_BGRA2RGB),
    **_both_depths("mono", 1, cv2.COLOR_GRAY2RGB),
    **_both_depths("bayer_rggb", 1, cv2.COLOR_BayerBG2RGB),
    **_both_depths("bayer_bggr", 1, cv2.COLOR_BayerRG2RGB),
    **_both_depths("bayer_gbrg", 1, cv2.COLOR_BayerGR2RGB),
    **_both_depths("bayer_grbg", 1, cv2.COLOR_BayerGB2RGB),
    "uyvy": _UYVY,
    "yuv422": _UYVY,
    "yuyv": _YUYV,
    "yuv422_yuy2": _YUYV,
    "nv12": _semi_planar(cv2.COLOR_YUV2RGB_NV12),
    "nv21": _semi_planar(cv2.COLOR_YUV2RGB_NV21),
}

IMAGE_ENCODINGS: tuple[str, ...] = tuple(_ENCODINGS)
DEPTH_ENCODINGS: tuple[str, ...] = ("16UC1", "mono16", "32FC1")

_JPEG_MAX_SIDE = 65500  # libjpeg's; OpenCV fails in a different way in each version beyond it
_GENERIC = re.compile(r"(8|16|32|64)[USF]C\d*")


def decode_image(
    *, height: int, width: int, encoding: str, step: int, is_bigendian: bool, data: Any
) -> npt.NDArray[np.uint8]:
    """Turn the fields of a sensor_msgs/Image into colour.

    Args:
        height: rows of the image.
        width: columns of the image.
        encoding: one of IMAGE_ENCODINGS.
        step: bytes from one row to the next; more than a row's pixels where rows are padded.
        is_bigendian: byte order of 16-bit channels.
        data: anything with the buffer interface (bytes, array.array, ndarray).

    Returns:
        uint8 [H, W, 3] RGB that owns its memory; 16-bit values are scaled by 255 / 65535.

    Raises:
        ImageError: the encoding is unknown, or size, step and length contradict each other.
    """
    how = _ENCODINGS.get(encoding)
    if how is None:
        raise ImageError(f"unknown image encoding {encoding!r}; {_cure_for(encoding)}")
    for value, even, name in (
        (width, how.even_width, "width"),
        (height, how.even_height, "height"),
    ):
        if even and value % 2:
            raise ImageError(
                f"image is {width}x{height} in {encoding}, where neighbouring pixels share "
                f"their colour: the {name} must be even; crop it by one or publish rgb8"
            )
    num_rows = height * how.rows[0] // how.rows[1]
    dtype = np.dtype(np.uint8 if how.num_bytes == 1 else np.uint16)
    pixels = _rows(
        width=width,
        height=height,
        num_rows=num_rows,
        num_channels=how.num_channels,
        encoding=encoding,
        dtype=dtype.newbyteorder(">" if is_bigendian else "<"),
        step=step,
        data=data,
    )
    colour = pixels if how.code is None else cv2.cvtColor(np.ascontiguousarray(pixels), how.code)
    if how.num_bytes == 2:
        return _to_uint8(colour)
    return np.array(colour) if how.code is None else np.asarray(colour, np.uint8)


def decode_depth(
    *, height: int, width: int, encoding: str, step: int, is_bigendian: bool, data: Any
) -> npt.NDArray[np.float32]:
    """Turn the fields of a depth image into metres along the optical axis.

    Args:
        height: rows of the image.
        width: columns of the image.
        encoding: 16UC1 or mono16 in millimetres, or 32FC1 in metres.
        step: bytes from one row to the next.
        is_bigendian: byte order of the values.
        data: anything with the buffer interface.

    Returns:
        float32 [H, W], metres; NaN where the camera gave 0, a negative number or no finite one.

    Raises:
        ImageError: the encoding is not a depth, or size, step and length contradict each other.

    Source: REP 118 (depth images).
    """
    if encoding not in DEPTH_ENCODINGS:
        raise ImageError(
            f"unknown depth encoding {encoding!r}; expected 16UC1 (millimetres) or 32FC1 (metres): "
            "subscribe to the camera's depth image, not to its colour or infrared image"
        )
    dtype = np.dtype(np.float32 if encoding == "32FC1" else np.uint16)
    values = _rows(
        width=width,
        height=height,
        num_rows=height,
        num_channels=1,
        encoding=encoding,
        dtype=dtype.newbyteorder(">" if is_bigendian else "<"),
        step=step,
        data=data,
    )
    if values.dtype == np.uint16:
        depth_m = values.astype(np.float32)
        depth_m *= np.float32(0.001)
    else:
        depth_m = np.array(values)
    with np.errstate(invalid="ignore"):
        depth_m[~((depth_m > 0) & (depth_m < np.inf))] = np.nan
    return depth_m


def decode_compressed(data: Any, image_format: str = "") -> npt.NDArray[np.uint8]:
    """Decode the data of a sensor_msgs/CompressedImage: JPEG, PNG or WebP.

    Args:
        data: anything with the buffer interface.
        image_format: the message's `format`, such as "jpeg" or "rgb8; jpeg compressed bgr8".

    Returns:
        uint8 [H, W, 3] RGB, as stored: an EXIF rotation is not applied.

    Raises:
        ImageError: the bytes are no image, more than MAX_PIXELS, or the format is a depth or a
            video stream.
    """
    kind = image_format.lower()
    if "compresseddepth" in kind:
        raise ImageError(
            f"compressed image format {image_format!r} is a depth image; subscribe to the colour "
            "image's topic, and to the raw depth topic for depth"
        )
    encoded = np.frombuffer(data, np.uint8)
    num_pixels = _pixels_claimed(encoded[:65536].tobytes())
    if num_pixels is not None and num_pixels > MAX_PIXELS:
        raise ImageError(
            f"compressed image claims {num_pixels / 1e6:.0f} megapixels, expected at most "
            f"{MAX_PIXELS / 1e6:.0f}: a few bytes may claim gigabytes; let the camera shrink it"
        )
    decoded = None if num_pixels is None else read_encoded(encoded, cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ImageError(
            f"{encoded.size} bytes in compressed image format {image_format!r} cannot be decoded; "
            "expected one whole JPEG or PNG per message (or WebP): for h264 and other streams "
            "republish the topic as raw (image_transport republish)"
        )
    pixels = _to_uint8(decoded) if decoded.dtype == np.uint16 else decoded
    if pixels.dtype != np.uint8:
        raise ImageError(
            f"compressed image holds {pixels.dtype} values, expected 8 or 16 bits; "
            "publish JPEG or PNG"
        )
    if pixels.ndim == 2:
        return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_GRAY2RGB), np.uint8)
    stored_rgb = stores_rgb(image_format)
    if pixels.shape[2] == 4:
        code = cv2.COLOR_RGBA2RGB if stored_rgb else cv2.COLOR_BGRA2RGB
        return np.asarray(cv2.cvtColor(pixels, code), np.uint8)
    if stored_rgb:
        return np.asarray(pixels, np.uint8)
    return np.asarray(cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB), np.uint8)


def stores_rgb(image_format: str) -> bool:
    """Whether a compressed picture has its channels the other way round than files have them.

    image_transport's oldest publishers stored them so, and said it: "rgb8; jpeg compressed rgb8".
    """
    kind = image_format.lower()
    return ";" in kind and "compressed rgb" in kind


def read_encoded(encoded: npt.NDArray[np.uint8], flags: int) -> Pixels | None:
    """What OpenCV makes of a picture's bytes; None where it makes nothing of them.

    A JPEG or PNG that was cut is nothing: before 4.11 OpenCV fills what is missing of a JPEG and
    says no word.

    Args:
        encoded: the bytes.
        flags: cv2.IMREAD_COLOR or cv2.IMREAD_UNCHANGED.
    """
    try:
        return None if _is_cut(encoded.tobytes()) else cv2.imdecode(encoded, flags)
    except cv2.error:  # a header that claims more than 2 ** 30 pixels
        return None


def _pixels_claimed(head: bytes) -> int | None:
    """Pixels by the header of a PNG, WebP or JPEG; None of all else.

    Of what else OpenCV reads a few bytes may claim gigabytes, and no camera sends it.

    Source: PNG, section 11.2.1 (the first chunk); RFC 9649, sections 2.5 to 2.7.
    """
    if head.startswith(_PNG):
        return int.from_bytes(head[16:20], "big") * int.from_bytes(head[20:24], "big")
    if head.startswith(b"RIFF") and head[8:12] == b"WEBP":
        return _pixels_of_webp(head)
    size = jpeg_size(head)
    return None if size is None else size[0] * size[1]


def _pixels_of_webp(head: bytes) -> int | None:
    kind = head[12:16]
    if kind == b"VP8X":  # extended: three bytes each, less one
        return (int.from_bytes(head[24:27], "little") + 1) * (
            int.from_bytes(head[27:30], "little") + 1
        )
    if kind == b"VP8L":  # lossless: 14 bits each, less one
        bits = int.from_bytes(head[21:25], "little")
        return ((bits & 0x3FFF) + 1) * ((bits >> 14 & 0x3FFF) + 1)
    if kind == b"VP8 ":  # lossy: 14 bits in two bytes each
        sides = (int.from_bytes(head[at : at + 2], "little") & 0x3FFF for at in (26, 28))
        return math.prod(sides)
    return None


def _is_cut(encoded: bytes) -> bool:
    """No bytes, a cut PNG, or a JPEG whose last scan (0xFFDA) has no end (0xFFD9) behind it."""
    if encoded.startswith(_PNG):
        return _is_cut_png(encoded)
    is_jpeg = encoded.startswith(b"\xff\xd8")
    return not encoded or (is_jpeg and encoded.rfind(b"\xff\xd9") < encoded.rfind(b"\xff\xda"))


def _is_cut_png(encoded: bytes) -> bool:
    """Whether a chunk reaches beyond the end, or the last one (IEND) is missing.

    OpenCV makes room for as many bytes as a chunk claims, up to 2 GB, before it looks for them.

    Source: PNG, section 5.3: length, kind, data, and a checksum of four bytes.
    """
    at = len(_PNG)
    while at + 12 <= len(encoded):
        kind = encoded[at + 4 : at + 8]
        at += 12 + int.from_bytes(encoded[at : at + 4], "big")
        if kind == b"IEND":
            return at > len(encoded)
    return True


def encode_jpeg(
    image: npt.NDArray[np.uint8],
    quality: int = 85,
    scratch: npt.NDArray[np.uint8] | None = None,
) -> bytes:
    """Compress a picture for sensor_msgs/CompressedImage with format "jpeg".

    Args:
        image: uint8 [H, W, 3] RGB.
        quality: 1 (small) to 100 (good).
        scratch: memory of the same shape that may be written over; new memory costs more than the
            compression of a small picture.

    Raises:
        ImageError: the picture is not uint8 [H, W, 3], or the quality is out of range.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or image.size == 0:
        raise ImageError(
            f"image is {image.dtype} {list(image.shape)}, expected non-empty uint8 [H, W, 3] RGB"
        )
    if not 1 <= quality <= 100:
        raise ImageError(f"JPEG quality is {quality}, expected 1 to 100")
    if max(image.shape[:2]) > _JPEG_MAX_SIDE:
        raise ImageError(
            f"JPEG cannot hold an image of {image.shape[1]}x{image.shape[0]} pixels, at most "
            f"{_JPEG_MAX_SIDE} a side; shrink it"
        )
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR, dst=scratch)
    _, encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return encoded.tobytes()


def _cure_for(encoding: str) -> str:
    if _GENERIC.fullmatch(encoding):
        return (
            "it names a number type but no order of colours: publish the image as rgb8, bgr8 or "
            "mono8 (a depth image belongs on the depth topic)"
        )
    return f"expected one of {', '.join(IMAGE_ENCODINGS)}: set the camera driver to one of them"


def _rows(
    *,
    width: int,
    height: int,
    num_rows: int,
    num_channels: int,
    encoding: str,
    dtype: np.dtype[Any],
    step: int,
    data: Any,
) -> Pixels:
    """View a message's data as [rows, W] or [rows, W, C] in the machine's byte order."""
    if width <= 0 or height <= 0:
        raise ImageError(
            f"image is {width}x{height} pixels, expected at least 1x1; the publisher sent an empty "
            "image: check the camera driver"
        )
    row_bytes = width * num_channels * dtype.itemsize
    if step < row_bytes:
        raise ImageError(
            f"step is {step} bytes, expected at least {row_bytes} for {width} pixels of "
            f"{encoding}; the publisher filled step or encoding wrongly"
        )
    buffer = np.frombuffer(data, np.uint8)
    if buffer.size != step * num_rows:
        raise ImageError(
            f"data has {buffer.size} bytes, expected {step * num_rows} ({num_rows} rows of {step}) "
            f"for {width}x{height} {encoding}; the message was cut or filled wrongly"
        )
    packed = np.ascontiguousarray(buffer.reshape(num_rows, step)[:, :row_bytes])
    values = packed.view(dtype).astype(dtype.newbyteorder("="), copy=False)
    return values if num_channels == 1 else values.reshape(num_rows, width, num_channels)


_SCALE_16_TO_8 = 255.0 / 65535.0


def _to_uint8(values: Pixels) -> npt.NDArray[np.uint8]:
    return np.asarray(cv2.convertScaleAbs(values, alpha=_SCALE_16_TO_8), np.uint8)
