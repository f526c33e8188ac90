"""Whether a depth image sees what the colour image sees, pixel by pixel up to its scale."""

from __future__ import annotations

from sensor_msgs.msg import CameraInfo, Image

from molmo2_ros.ros import images
from molmo2_ros.ros.metres import NoMetres

REGISTERED_CURE = (
    "subscribe to the depth that is registered to colour, often called aligned_depth_to_color or "
    "depth_registered"
)
_SAME = 0.02  # share by which optics of one view may differ


def check_registered(
    depth: Image, depth_info: CameraInfo | None, info: CameraInfo | None, size: tuple[int, int]
) -> None:
    """Refuse depth of another view: points would be lifted beside their objects.

    With both camera_info, their focal lengths and centres are compared after scaling; without, or
    where the colour's is of another size, the two images must have the same shape.

    Args:
        depth: the depth image, in the colour image's frame_id.
        depth_info: its optics, None where none came.
        info: the colour image's optics.
        size: width and height of the colour image.

    Raises:
        NoMetres: depth_info is of another image, or the views differ.
    """
    width, height = size
    scale = (depth.width / width, depth.height / height)
    met = images.camera_model(depth_info) if depth_info is not None else None
    if info is not None and (info.width, info.height) != size:
        info = None
    colour = images.camera_model(info) if info is not None else None
    if met is None or colour is None:
        if abs(scale[0] - scale[1]) > _SAME * scale[1]:
            raise NoMetres(
                "depth_other_shape",
                f"depth has {depth.width}x{depth.height} pixels, the image {width}x{height}: not "
                f"one view scaled; {REGISTERED_CURE}, or publish depth/camera_info that proves it",
            )
        return
    if (met.width, met.height) != (depth.width, depth.height):
        raise NoMetres(
            "depth_info_other_size",
            f"depth/camera_info is for {met.width}x{met.height}, the depth image has "
            f"{depth.width}x{depth.height}; subscribe to the camera_info of this depth topic",
        )
    for axis, focal, centre in ((0, 0, 2), (1, 4, 5)):
        expected_px, met_px = colour.k[focal] * scale[axis], met.k[focal]
        if abs(met_px - expected_px) > _SAME * expected_px:
            raise NoMetres(
                "depth_not_registered",
                f"depth/camera_info has a focal length of {met_px:.1f} px, expected "
                f"{expected_px:.1f} px as the colour image's; {REGISTERED_CURE}",
            )
        expected_px, met_px = colour.k[centre] * scale[axis], met.k[centre]
        if abs(met_px - expected_px) > max(1.0, _SAME * (met.width, met.height)[axis]):
            raise NoMetres(
                "depth_not_registered",
                f"depth/camera_info has its centre at {met_px:.1f} px, expected {expected_px:.1f} "
                f"px as the colour image's; {REGISTERED_CURE}",
            )
