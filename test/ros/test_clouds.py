"""Rows of ~/points and ~/tracks: layout, units, and back to numpy."""

import dataclasses
import math

import numpy as np
import pytest
from sensor_msgs.msg import PointField

from molmo2_ros.errors import DataError
from molmo2_ros.ros.clouds import points_cloud, rows_of, tracks_cloud
from molmo2_ros.tracking.target import Target

STAMP_NS = 5_000_000_000


def target(**changes):
    known = Target(
        query_id=2,
        query_name="red_mug",
        label="red mug",
        track_id=7,
        stamp_ns=STAMP_NS,
        u=163.25,
        v=96.5,
        point_m=(0.02, -0.05, 0.71),
        age_s=0.25,
        quality=0.9,
        confidence=0.75,
        measured=True,
        z_std_m=0.004,
    )
    return dataclasses.replace(known, **changes)


def test_a_points_row_holds_every_field_of_the_document():
    cloud = points_cloud([target()], STAMP_NS, "camera")

    (row,) = rows_of(cloud)
    assert row.tolist() == (
        *map(np.float32, (0.02, -0.05, 0.71, 163.25, 96.5)),
        2,
        7,
        *map(np.float32, (0.25, 0.9, 0.75)),
        1,
        np.float32(0.004),
    )
    assert cloud.header.frame_id == "camera"
    assert (cloud.header.stamp.sec, cloud.header.stamp.nanosec) == (5, 0)
    assert cloud.is_dense


def test_the_fields_tell_where_each_value_lies():
    cloud = points_cloud([target()], STAMP_NS, "camera")

    described = {
        field.name: (
            np.frombuffer(
                bytes(cloud.data),
                {PointField.FLOAT32: "<f4", PointField.UINT32: "<u4"}[field.datatype],
                count=1,
                offset=field.offset,
            )[0]
        )
        for field in cloud.fields
    }
    assert described["x"] == np.float32(0.02)
    assert described["query_id"] == 2
    assert described["measured"] == 1
    assert (cloud.point_step, cloud.row_step, cloud.width, cloud.height) == (48, 48, 1, 1)


def test_a_target_without_depth_has_nan_metres_and_the_cloud_says_so():
    cloud = points_cloud(
        [target(point_m=None, z_std_m=math.nan), target(track_id=8)], STAMP_NS, "camera"
    )

    rows = rows_of(cloud)
    assert np.isnan([rows[name][0] for name in ("x", "y", "z", "z_std")]).all()
    assert np.isfinite([rows["z"][1], rows["z_std"][1]]).all()
    assert not cloud.is_dense


def test_no_targets_make_an_empty_cloud_with_all_fields():
    cloud = points_cloud([], STAMP_NS, "camera")

    assert (cloud.width, len(cloud.data), len(cloud.fields)) == (0, 0, 12)
    assert len(rows_of(cloud)) == 0
    assert cloud.is_dense


def test_a_tracks_row_tells_its_time_relative_to_the_newest_frame():
    past = target(stamp_ns=STAMP_NS - 1_500_000_000)

    rows = rows_of(tracks_cloud([past, target()], STAMP_NS, "camera"))

    assert rows["t"].tolist() == [-1.5, 0.0]
    assert rows.dtype.itemsize == 52


def test_a_cloud_that_claims_more_rows_than_it_has_is_refused():
    cloud = points_cloud([target()], STAMP_NS, "camera")
    cloud.width = 2**32 - 1

    with pytest.raises(DataError, match="a cloud of 4294967295 rows has 48 bytes, expected at l"):
        rows_of(cloud)
