"""Detections in vision_msgs' own types, made from their definitions: each field, and over DDS."""

import dataclasses
import importlib
import json
import subprocess
import sys
import sysconfig
from array import array
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rosidl_typesupport_c
import rosidl_typesupport_introspection_c
from ament_index_python.packages import get_package_prefix
from rosidl_adapter.msg import convert_msg_to_idl
from rosidl_generator_c import generate_c
from rosidl_generator_py import generate_py
from rosidl_generator_type_description import generate_type_hash
from rosidl_typesupport_fastrtps_c import generate_typesupport_fastrtps_c
from sensor_msgs.msg import PointCloud2

from molmo2_ros.ros import compat, images, markers, qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.tracking.target import Target

# The wheels of ROS 2 lack vision_msgs. Its fields, from the definitions of 4.1.1, which Humble,
# Jazzy and Kilted have.
DEFINITIONS = {
    "Point2D": "float64 x\nfloat64 y\n",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "BoundingBox3D": "geometry_msgs/Pose center\ngeometry_msgs/Vector3 size\n",
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": (
        "ObjectHypothesis hypothesis\ngeometry_msgs/PoseWithCovariance pose\n"
    ),
    "Detection2D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\n"
        "BoundingBox2D bbox\nstring id\n"
    ),
    "Detection3D": (
        "std_msgs/Header header\nObjectHypothesisWithPose[] results\n"
        "BoundingBox3D bbox\nstring id\n"
    ),
    "Detection2DArray": "std_msgs/Header header\nDetection2D[] detections\n",
    "Detection3DArray": "std_msgs/Header header\nDetection3D[] detections\n",
}
# What DDS compares (REP 2011), computed by rosidl from the unmodified files of vision_msgs 4.1.1;
# its package, built whole, announces the first, and an independent DDS client the second. A hash
# covers the fields of all messages that are contained.
TYPE_HASHES = {
    "Detection2DArray": "RIHS01_214274120007f4a683866481336b70310268cfa107aebe9d594a6acf75bda968",
    "Detection3DArray": "RIHS01_793f5eab9595ac1c0da07873cc859db42eae51f0ee76056db8562515d830e018",
}
PREFIX = Path(get_package_prefix("std_msgs"))  # its include/, lib/ and share/
PACKAGE = "vision_msgs"
USED = ("std_msgs", "geometry_msgs", "builtin_interfaces")
STRUCTS = "rosidl_generator_c"
CODEC = "rosidl_typesupport_fastrtps_c"
FIELDS = "rosidl_typesupport_introspection_c"
PYTHON = "rosidl_generator_py"


def generate(folder):
    """Write rosidl's C, C++ and Python for the definitions, each layer into a folder of its own."""
    source = folder / "idl" / PACKAGE
    for name, text in DEFINITIONS.items():
        path = source / "msg" / f"{name}.msg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        convert_msg_to_idl(source, PACKAGE, path.relative_to(source), path.parent)

    def arguments(generator, into):
        about = {
            "package_name": PACKAGE,
            "output_dir": str(folder / into / PACKAGE),
            "template_dir": str(PREFIX / "share" / generator / "resource"),
            "idl_tuples": [f"{source}:msg/{name}.idl" for name in DEFINITIONS],
            "type_description_tuples": [
                f"msg/{name}.idl:{source}/msg/{name}.json" for name in DEFINITIONS
            ],
            "include_paths": [f"{used}:{PREFIX}/share/{used}" for used in USED],
            "target_dependencies": [],
        }
        path = folder / f"{generator}.json"
        path.write_text(json.dumps(about))
        return str(path)

    generate_type_hash(arguments("rosidl_generator_type_description", "idl"))
    generate_c(arguments(STRUCTS, STRUCTS))
    generate_typesupport_fastrtps_c(arguments(CODEC, CODEC))
    rosidl_typesupport_introspection_c.generate_c(arguments(FIELDS, FIELDS))
    rosidl_typesupport_c.generate_c(arguments("rosidl_typesupport_c", "module"), [CODEC, FIELDS])
    generate_py(arguments(PYTHON, "module"), ["rosidl_typesupport_c"])
    for layer in (STRUCTS, CODEC, FIELDS):
        name = f"{layer}__visibility_control.h"
        text = (PREFIX / "share" / layer / "resource" / f"{name}.in").read_text()
        text = text.replace("@PROJECT_NAME_UPPER@", PACKAGE.upper())
        (folder / layer / PACKAGE / "msg" / name).write_text(
            text.replace("@PROJECT_NAME@", PACKAGE)
        )


def build(folder):
    """Compile the layers into the libraries that rclpy and the middleware look for."""
    package = folder / "module" / PACKAGE
    structs, codec, fields = (folder / layer for layer in (STRUCTS, CODEC, FIELDS))
    headers = [structs, codec, fields, PREFIX / "include", *(PREFIX / "include").iterdir()]
    headers += [np.get_include(), sysconfig.get_paths()["include"]]

    def run(compiler, *arguments, cwd):
        command = [compiler, *map(str, arguments)]
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"gcc, g++ and Python's headers are needed:\n{done.stderr}"

    def compile_in(place, files, suffix):
        # One unit that includes many files: the compiler reads their common headers once.
        unit = place / f"all{suffix}"
        unit.write_text("".join(f'#include "{file}"\n' for file in sorted(files)))
        # The descriptions define the same static names: a unit each.
        units = [unit.name, *place.rglob("*__description.c")]
        compiler = "gcc" if suffix == ".c" else "g++"
        run(compiler, "-c", "-fPIC", "-w", *(f"-I{each}" for each in headers), *units, cwd=place)

    parts = [
        (structs, set(structs.rglob("*.c")) - set(structs.rglob("*__description.c")), ".c"),
        (codec, codec.rglob("*.cpp"), ".cpp"),
        (fields, fields.rglob("*.c"), ".c"),
        (package / "msg", package.rglob("*.cpp"), ".cpp"),
        (package, package.rglob("*.c"), ".c"),
    ]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: compile_in(*part), parts))

    def link(name, place, *libraries):
        where = [f"-L{package}", f"-L{PREFIX}/lib", f"-Wl,-rpath,$ORIGIN:{PREFIX}/lib"]
        # The dispatcher opens the codec and the fields by name: they must be loaded by then.
        options = ["-shared", "-Wl,--no-as-needed", f"-Wl,-soname,{name}", "-o", package / name]
        objects = place.rglob("*.o")
        run("g++", *options, *objects, *where, *(f"-l{each}" for each in libraries), cwd=folder)

    own = [f"{PACKAGE}__{layer}" for layer in (STRUCTS, CODEC, FIELDS)]
    used = {layer: [f"{name}__{layer}" for name in USED] for layer in (STRUCTS, CODEC, PYTHON)}
    link(f"lib{own[0]}.so", structs, *used[STRUCTS], "rosidl_runtime_c")
    link(f"lib{own[1]}.so", codec, own[0], *used[CODEC], CODEC, "fastcdr")
    link(f"lib{own[2]}.so", fields, own[0], *(f"{name}__{FIELDS}" for name in USED), FIELDS)
    extension = f"{PACKAGE}_s__rosidl_typesupport_c{sysconfig.get_config_var('EXT_SUFFIX')}"
    link(extension, package, *own, *used[PYTHON], "rosidl_typesupport_c")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The message package, made anew."""
    folder = tmp_path_factory.mktemp("ros")
    generate(folder)
    build(folder)
    return folder


@pytest.fixture(scope="module")
def vision_msgs(folder):
    """The module vision_msgs.msg, importable as on a robot while this file's tests run."""
    sys.path.insert(0, str(folder / "module"))
    importlib.invalidate_caches()
    yield importlib.import_module(f"{PACKAGE}.msg")
    sys.path.remove(str(folder / "module"))
    for name in [name for name in sys.modules if name.split(".")[0] == PACKAGE]:
        del sys.modules[name]


def plain(value):
    """A message as dicts and lists of all its fields, whatever they hold."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, (list, tuple, array, np.ndarray)):
        return [plain(entry) for entry in value]
    return value


TARGET = Target(
    query_id=2,
    query_name="red_mug",
    label="red mug",
    track_id=7,
    stamp_ns=5_000_000_250,
    u=163.25,
    v=96.5,
    point_m=(0.02, -0.05, 0.71),
    age_s=0.25,
    quality=0.9,
    confidence=0.75,
    measured=True,
)
HEADER = {"stamp": {"sec": 5, "nanosec": 250}, "frame_id": "camera"}
NOWHERE = {
    "position": {"x": 0.0, "y": 0.0, "z": 0.0},
    "orientation": {"x": 0.0, "y": 0.0, "z": 0.0, "w": 1.0},
}
THERE = {**NOWHERE, "position": {"x": 0.02, "y": -0.05, "z": 0.71}}


def expected(bbox, pose):
    """An array of one detection, every field of it written out."""
    hypothesis = {"class_id": "red mug", "score": 0.75}
    result = {"hypothesis": hypothesis, "pose": {"pose": pose, "covariance": [0.0] * 36}}
    detection = {"header": HEADER, "results": [result], "bbox": bbox, "id": "7"}
    return {"header": HEADER, "detections": [detection]}


def test_the_types_are_the_published_ones(folder):
    for name, published in TYPE_HASHES.items():
        path = folder / "idl" / PACKAGE / "msg" / f"{name}.json"
        own = json.loads(path.read_text())["type_hashes"][0]
        assert own == {"type_name": f"vision_msgs/msg/{name}", "hash_string": published}


def test_every_field_of_a_detection_is_right(vision_msgs):
    message = markers.detections([TARGET], TARGET.stamp_ns, "camera", vision_msgs)

    center = {"position": {"x": 163.25, "y": 96.5}, "theta": 0.0}
    bbox = {"center": center, "size_x": 0.0, "size_y": 0.0}
    assert plain(message) == expected(bbox, NOWHERE)


def test_every_field_of_a_detection_in_3d_is_right_and_it_needs_metres(vision_msgs):
    pair = [TARGET, dataclasses.replace(TARGET, point_m=None)]

    message = markers.detections_3d(pair, TARGET.stamp_ns, "camera", vision_msgs)

    bbox = {"center": THERE, "size": {"x": 0.0, "y": 0.0, "z": 0.0}}
    assert plain(message) == expected(bbox, THERE)


def test_detections_go_over_dds_beside_the_points(vision_msgs, node_under_test, camera):
    assert compat.vision_msgs() is vision_msgs
    node_under_test.listen("grounding/points", PointCloud2, qos.result_qos())
    kinds = {"detections": vision_msgs.Detection2DArray}
    kinds["detections_3d"] = vision_msgs.Detection3DArray
    for topic, kind in kinds.items():
        node_under_test.listen(f"grounding/{topic}", kind, qos.result_qos())
    node = node_under_test.start(GroundingNode, queries=["count: mugs"])

    node_under_test.play(camera, rate_hz=5.0)

    for topic, kind in kinds.items():
        message = node_under_test.wait_for(f"grounding/{topic}", lambda m: len(m.detections) >= 2)
        stamp_ns = images.stamp_ns_of(message)
        points = node_under_test.wait_for(
            "grounding/points", lambda m, at=stamp_ns: images.stamp_ns_of(m) == at
        )
        rows = rows_of(points)
        assert [d.id for d in message.detections] == [str(track) for track in rows["track_id"]]
        places = [d.bbox.center.position for d in message.detections]
        wanted = rows["u"] if topic == "detections" else rows["x"]
        assert [place.x for place in places] == pytest.approx(wanted, abs=1e-4)
        assert {d.results[0].hypothesis.class_id for d in message.detections} == {"mugs"}
        assert message.header.frame_id == "table_optical"
        (info,) = node.get_publishers_info_by_topic(f"/grounding/{topic}")
        assert info.topic_type == f"vision_msgs/msg/{kind.__name__}"
        assert str(info.topic_type_hash) == TYPE_HASHES[kind.__name__]
