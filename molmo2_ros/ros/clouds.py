"""Points and tracks as PointCloud2, row by row, and back to numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sensor_msgs.msg import PointCloud2, PointField

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import DataError
from molmo2_ros.ros.images import byte_array, header
from molmo2_ros.tracking.target import Target

_FIELDS: tuple[tuple[str, str, int], ...] = (
    ("x", "<f4", PointField.FLOAT32),
    ("y", "<f4", PointField.FLOAT32),
    ("z", "<f4", PointField.FLOAT32),
    ("u", "<f4", PointField.FLOAT32),
    ("v", "<f4", PointField.FLOAT32),
    ("query_id", "<u4", PointField.UINT32),
    ("track_id", "<u4", PointField.UINT32),
    ("age", "<f4", PointField.FLOAT32),
    ("quality", "<f4", PointField.FLOAT32),
    ("confidence", "<f4", PointField.FLOAT32),
    ("measured", "<u4", PointField.UINT32),
    ("z_std", "<f4", PointField.FLOAT32),
)
_TRACK_FIELDS = (*_FIELDS, ("t", "<f4", PointField.FLOAT32))

POINTS_DTYPE = np.dtype([(name, kind) for name, kind, _ in _FIELDS])
TRACKS_DTYPE = np.dtype([(name, kind) for name, kind, _ in _TRACK_FIELDS])


def points_cloud(targets: Sequence[Target], stamp_ns: int, frame_id: str) -> PointCloud2:
    """One row per target on the frame of `stamp_ns`; x y z and z_std are NaN without depth."""
    rows = np.zeros(len(targets), POINTS_DTYPE)
    for row, target in zip(rows, targets, strict=True):
        _fill(row, target)
    return _cloud(rows, _FIELDS, stamp_ns, frame_id)


def tracks_cloud(targets: Sequence[Target], stamp_ns: int, frame_id: str) -> PointCloud2:
    """One row per track and frame; t is the frame's time relative to `stamp_ns`, in seconds."""
    rows = np.zeros(len(targets), TRACKS_DTYPE)
    for row, target in zip(rows, targets, strict=True):
        _fill(row, target)
        row["t"] = (target.stamp_ns - stamp_ns) / NS_PER_S
    return _cloud(rows, _TRACK_FIELDS, stamp_ns, frame_id)


def rows_of(cloud: PointCloud2) -> npt.NDArray[Any]:
    """The rows of a ~/points or ~/tracks message as a structured array with its field names.

    Raises:
        DataError: the message has fewer bytes than its rows need.
    """
    has_t = any(field.name == "t" for field in cloud.fields)
    dtype = TRACKS_DTYPE if has_t else POINTS_DTYPE
    num_rows = cloud.width * cloud.height
    if len(cloud.data) < num_rows * dtype.itemsize:
        raise DataError(
            f"a cloud of {num_rows} rows has {len(cloud.data)} bytes, expected at least "
            f"{num_rows * dtype.itemsize}; subscribe to ~/points or ~/tracks of a grounding node"
        )
    return np.frombuffer(cloud.data, dtype, count=num_rows)


def _fill(row: Any, target: Target) -> None:
    point = target.point_m
    row["x"], row["y"], row["z"] = (np.nan,) * 3 if point is None else point
    row["u"], row["v"] = target.u, target.v
    row["query_id"], row["track_id"] = target.query_id, target.track_id
    row["age"], row["quality"] = target.age_s, target.quality
    row["confidence"], row["measured"] = target.confidence, target.measured
    row["z_std"] = target.z_std_m


def _cloud(
    rows: npt.NDArray[Any],
    fields: Sequence[tuple[str, str, int]],
    stamp_ns: int,
    frame_id: str,
) -> PointCloud2:
    return PointCloud2(
        header=header(stamp_ns, frame_id),
        height=1,
        width=len(rows),
        fields=[
            PointField(name=name, offset=4 * index, datatype=datatype, count=1)
            for index, (name, _, datatype) in enumerate(fields)
        ],
        is_bigendian=False,
        point_step=rows.dtype.itemsize,
        row_step=rows.nbytes,
        data=byte_array(rows.view(np.uint8)) if len(rows) else byte_array(b""),
        is_dense=bool(len(rows) == 0 or np.isfinite(rows["x"]).all()),
    )
