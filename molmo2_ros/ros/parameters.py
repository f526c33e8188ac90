"""The parameters of each node, one frozen dataclass each; docs/parameters.md is made from here."""

from __future__ import annotations

from dataclasses import dataclass

from molmo2_ros.ros.settings import setting
from molmo2_ros.runtime.engine import DEVICES
from molmo2_ros.runtime.self_test import SELF_TESTS


@dataclass(frozen=True, slots=True, kw_only=True)
class CameraParameters:
    """What `camera_node` plays and how it is published."""

    source: str = setting(
        "table",
        "What to play: `table` (the simulated robot table), `reach` (one with an arm that obeys "
        "joint_commands), a video file, a folder of images, one image, or a camera device such as "
        "/dev/video0.",
    )
    rate_hz: float = setting(
        0.0,
        "Frames published a second; 0 keeps the source's own rate.",
        unit="Hz",
        minimum=0.0,
        maximum=240.0,
    )
    loop: bool = setting(
        True, "Start a file or folder again at its end; otherwise the node ends with it.", live=True
    )
    frame_id: str = setting(
        "camera_optical_frame",
        "frame_id of every message: an optical frame of REP 103 (x right, y down, z forward).",
    )
    encoding: str = setting(
        "rgb8", "Encoding of the published image.", choices=("rgb8", "bgr8"), live=True
    )
    image_reliability: str = setting(
        "reliable",
        "Reliability offered on the image topics; `reliable` serves best-effort subscribers too.",
        choices=("reliable", "best_effort"),
    )
    publish_compressed: bool = setting(
        False, "Publish image/compressed (JPEG) beside the raw image.", live=True
    )
    jpeg_quality: int = setting(
        85, "JPEG quality of image/compressed.", minimum=10, maximum=100, live=True
    )
    horizontal_fov_deg: float = setting(
        0.0,
        "Horizontal field of view of a file or device, which gives camera_info its focal length; "
        "0 publishes an uncalibrated camera_info (k all zero). The table knows its own optics.",
        unit="degrees",
        minimum=0.0,
        maximum=170.0,
    )
    table_width: int = setting(
        320, "Width of the simulated table's image.", unit="px", minimum=64, maximum=1920
    )
    table_height: int = setting(
        240, "Height of the simulated table's image.", unit="px", minimum=48, maximum=1080
    )
    table_seed: int = setting(
        2, "Which table: shapes, colours, layout and motion.", minimum=0, maximum=2**31 - 1
    )
    table_renderer: str = setting(
        "auto",
        "Who draws the table: `rays` on the CPU, `egl` through EGL whatever stands behind it, "
        "`auto` through EGL where it has a GPU and by rays otherwise.",
        choices=("auto", "rays", "egl"),
    )
    reach_object: str = setting(
        "red mug",
        "What source `reach` sets once within the arm's reach, as a person would call it.",
    )
    belt_speed: float = setting(
        0.0,
        "Speed of the belt that carries this object back and forth; 0: it stands on the table.",
        unit="m/s",
        minimum=-0.2,
        maximum=0.2,
    )
    diagnostics_period_s: float = setting(
        1.0, "Time between two messages on /diagnostics.", unit="s", minimum=0.1, maximum=60.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundingParameters:
    """What `grounding_node` asks, of whom, and what it publishes."""

    engine: str = setting(
        "nano",
        "Folder of the engine (manifest.json, vision.onnx, decoder.onnx, tokenizer.json); `nano` "
        "is the small model that comes with the package; or a name under which "
        "`molmo2 engine install` put one; a URL such as http://host:8000/v1 is a server that "
        "others share (docs/remote.md).",
    )
    remote_model: str = setting(
        "", "Name under which a server offers the model; empty where it offers one only."
    )
    remote_frame_size: int = setting(
        378,
        "Side of the square that frames of a clip are sent to a server as, by the model's own "
        "resizing; 378 is what every released Molmo2 reads, 0 sends frames as they are.",
        unit="px",
        minimum=0,
        maximum=4096,
    )
    remote_jpeg_quality: int = setting(
        90, "JPEG quality of the pictures that a server is sent.", minimum=10, maximum=100
    )
    remote_timeout_s: float = setting(
        30.0,
        "How long a server may take to the first word of an answer.",
        unit="s",
        minimum=0.1,
        maximum=600.0,
    )
    remote_stall_s: float = setting(
        10.0,
        "How long a server may take from one word of an answer to the next.",
        unit="s",
        minimum=0.1,
        maximum=600.0,
    )
    remote_max_requests: int = setting(
        4, "Questions that a server is asked at once.", minimum=1, maximum=64
    )
    device: str = setting(
        "auto",
        "Where the engine runs, by ONNX Runtime's execution provider; `auto` takes CUDA where it "
        "is offered and starts, else the CPU, each other name fails where it does not start. "
        "`tensorrt` and `tensorrt-rtx` compile the engine first, once (`molmo2 doctor` tells what "
        "this machine has).",
        choices=DEVICES,
    )
    threads: int = setting(
        0, "CPU threads of the engine; 0 lets it choose.", minimum=0, maximum=256
    )
    self_test: str = setting(
        "refuse",
        "What follows where the engine does not compute here what its model computes (its golden "
        "example, compared when it is first loaded on this machine): `refuse` it, `warn` on "
        "/diagnostics and run it all the same, or `off`: compare nothing.",
        choices=SELF_TESTS,
    )
    rebuild_plans: bool = setting(
        False,
        "Build the engine's TensorRT plans anew, which takes minutes, where they are of another "
        "GPU, TensorRT, driver or graph; false refuses such plans (docs/engines.md).",
    )
    autostart: bool = setting(
        True, "Configure and activate at start; false leaves both to a lifecycle client."
    )
    query: str = setting(
        "",
        "One standing query beside `queries`, written like these, without a list around it: "
        "query:='the red mug' of a launch file. Empty for none.",
        live=True,
    )
    queries: tuple[str, ...] = setting(
        ("",),
        "Standing queries, each `[name=]kind[options]: words` with kind track, point, count, ask "
        "or caption; replaces those that the parameter held before and leaves those of ~/query "
        "alone. One empty string stands for none.",
        live=True,
    )
    cameras: tuple[str, ...] = setting(
        ("",),
        "Names of the cameras that this node's engine is shared by. Each is the first part of its "
        "topics: `front` reads front/image and front/camera_info, publishes ~/front/points and "
        "takes ~/front/query. One empty string stands for a single camera, whose topics have no "
        "such part. Read at start.",
    )
    max_queries: int = setting(
        16, "Standing queries of a camera that may run at once.", minimum=1, maximum=256, live=True
    )
    image_transport: str = setting(
        "raw", "Subscribe to `image` or to `image/compressed`.", choices=("raw", "compressed")
    )
    image_reliability: str = setting(
        "best_effort",
        "Reliability asked of the image topics; `reliable` cures lost large images only where the "
        "camera offers it.",
        choices=("best_effort", "reliable"),
    )
    image_rotation: int = setting(
        0,
        "Degrees clockwise by which the pictures of a camera that is mounted on its side or its "
        "head must be turned to be upright. The model and the overlay get them so; points stay in "
        "the pixels and in the frame of the camera.",
        unit="deg",
        choices=(0, 90, 180, 270),
    )
    use_depth: bool = setting(
        True, "Subscribe to depth and depth/camera_info, and lift points to metres."
    )
    depth_tolerance_s: float = setting(
        0.05,
        "Largest difference between the stamps of an image and the depth that is used for it.",
        unit="s",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    target_frame: str = setting(
        "",
        "Frame in which ~/target and ~/detections_3d are given, such as `base_link`, by the "
        "transform at the image's stamp (needs tf2_ros); empty gives them in the camera's frame, "
        "as ~/points always are.",
    )
    clip_duration_s: float = setting(
        5.0,
        "Length of the clip that a query is asked about.",
        unit="s",
        minimum=0.5,
        maximum=10.0,
    )
    clip_max_frames: int = setting(
        128, "Frames kept of the clip; more memory, finer times.", minimum=2, maximum=384
    )
    clip_max_mb: float = setting(
        512.0,
        "What a camera's clip may take of memory, pictures and depth together; a camera of many "
        "pixels has a shorter clip for it.",
        unit="MB",
        minimum=1.0,
        maximum=1e6,
    )
    answer_rate_hz: float = setting(
        0.0,
        "Answers a second for each standing query that names no rate itself (`[2 hz]`); 0 asks "
        "again as soon as the engine is free.",
        unit="Hz",
        minimum=0.0,
        maximum=60.0,
        live=True,
    )
    answer_deadline_s: float = setting(
        0.0,
        "An answer that takes longer is ended at its next step, and what there is of it is "
        "published as truncated; 0 lets every answer come to its end.",
        unit="s",
        minimum=0.0,
        maximum=600.0,
        live=True,
    )
    constrained: bool = setting(
        False,
        "Let the model write only what the grammar of answers allows, so that every answer that "
        "points, counts or tracks can be read; false leaves it what it would say by itself.",
        live=True,
    )
    target_max_age_s: float = setting(
        3.0,
        "A target that no answer has confirmed for longer is dropped.",
        unit="s",
        minimum=0.1,
        maximum=60.0,
        live=True,
    )
    min_quality: float = setting(
        0.2,
        "Optical-flow quality under which a carried target is not published.",
        minimum=0.0,
        maximum=1.0,
        live=True,
    )
    overlay: bool = setting(
        True, "Draw ~/overlay/compressed while somebody subscribes to it.", live=True
    )
    overlay_width: int = setting(
        640,
        "Smaller images are enlarged for the overlay, by the first whole factor that reaches this "
        "width, so that names stay legible; larger ones are reduced, by the last that keeps it. 0 "
        "leaves them as they are.",
        unit="px",
        minimum=0,
        maximum=4096,
        live=True,
    )
    overlay_quality: int = setting(
        80, "JPEG quality of the overlay.", minimum=10, maximum=100, live=True
    )
    web: bool = setting(
        False,
        "Serve the live page (docs/web.md) from this process; web_node serves it from one of its "
        "own. The four are read at start.",
    )
    web_host: str = setting("127.0.0.1", "As `host` of web_node.")
    web_port: int = setting(8080, "As `port` of web_node.", minimum=0, maximum=65535)
    web_token: str = setting("", "As `token` of web_node.")
    diagnostics_period_s: float = setting(
        1.0,
        "Time between two messages on /diagnostics.",
        unit="s",
        minimum=0.1,
        maximum=60.0,
        live=True,
    )

    @property
    def asked(self) -> tuple[str, ...]:
        """All standing queries as they were written: `query` before `queries`."""
        if not self.query:
            return self.queries
        return (self.query, *(text for text in self.queries if text))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroundedCameraParameters:
    """What `grounding_node` does otherwise for one camera of several, each under NAME. of it."""

    queries: tuple[str, ...] = setting(
        ("",),
        "Queries that stand about this camera, besides those of the node's `queries`, which stand "
        "about every camera.",
        live=True,
    )
    answer_rate_hz: float = setting(
        0.0,
        "As the node's `answer_rate_hz`, for this camera; 0 takes the node's.",
        unit="Hz",
        minimum=0.0,
        maximum=60.0,
        live=True,
    )
    image_rotation: int = setting(
        0,
        "As the node's `image_rotation`, which is that of a camera without a name.",
        unit="deg",
        choices=(0, 90, 180, 270),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class WebParameters:
    """Whom `web_node` shows, and where its page is served."""

    host: str = setting(
        "127.0.0.1",
        "Address to listen at; `0.0.0.0` for all of this machine's, and then every viewer needs "
        "the token.",
    )
    port: int = setting(
        8080, "Port of the page; 0 takes a free one, which the log names.", minimum=0, maximum=65535
    )
    token: str = setting(
        "",
        "What viewers off this machine must know, 16 characters or more; empty has one made at "
        "start, which the log names with the link.",
    )
    max_viewers: int = setting(16, "Viewers at once.", minimum=1, maximum=256)
    image_topics: tuple[str, ...] = setting(("image",), "Cameras, by their image topics.")
    image_transport: str = setting(
        "raw",
        "Subscribe to the raw images, or to their compressed form (NAME/compressed), whose JPEGs "
        "are sent on as they come.",
        choices=("raw", "compressed"),
    )
    image_reliability: str = setting(
        "best_effort", "Reliability asked of the cameras.", choices=("best_effort", "reliable")
    )
    grounding_nodes: tuple[str, ...] = setting(
        ("grounding",), "Grounding nodes that are shown and asked, by name."
    )
    recorder: str = setting(
        "recorder", "Name of the recorder node, which tells what has been recorded."
    )
    jpeg_quality: int = setting(
        80, "JPEG quality of pictures that come raw.", minimum=10, maximum=100
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmParameters:
    """What `arm_node` has to know of the robot."""

    camera_pose: str = setting(
        "0.278383 0.386979 0.483759 -0.275765 0.874616 -0.380294 0.119906",
        "Where the camera's optical frame is in the arm's foot: `x y z qx qy qz qw`, metres and a "
        "quaternion. The default is that of source `reach`.",
    )
    rate_hz: float = setting(
        50.0, "Joint commands a second.", unit="Hz", minimum=5.0, maximum=500.0
    )
    diagnostics_period_s: float = setting(
        1.0, "Time between two messages on /diagnostics.", unit="s", minimum=0.1, maximum=60.0
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderParameters:
    """What `recorder_node` writes down, and how much of the disk it may take."""

    folder: str = setting(
        "~/molmo2_logs", "Where the bags are written; those of earlier runs count as used space."
    )
    image_topics: tuple[str, ...] = setting(
        ("image",), "Cameras of which pictures are recorded, as JPEG under NAME/compressed."
    )
    image_transport: str = setting(
        "raw",
        "Subscribe to the raw images, or to their compressed form, which is recorded as it comes.",
        choices=("raw", "compressed"),
    )
    image_reliability: str = setting(
        "best_effort",
        "Reliability asked of the cameras.",
        choices=("best_effort", "reliable"),
    )
    rate_hz: float = setting(
        5.0,
        "Pictures recorded a second of each camera.",
        unit="Hz",
        minimum=0.01,
        maximum=60.0,
        live=True,
    )
    history_s: float = setting(
        2.0,
        "For so long pictures that were not recorded are held in memory, in case a correction "
        "speaks of them (30 VGA images are 28 MB).",
        unit="s",
        minimum=0.0,
        maximum=60.0,
        live=True,
    )
    jpeg_quality: int = setting(
        90, "JPEG quality of the pictures.", minimum=10, maximum=100, live=True
    )
    text_topics: tuple[str, ...] = setting(
        ("grounding/answer", "grounding/queries", "grounding/query", "grounding/ask"),
        "Topics of std_msgs/String that are recorded whole: what was asked and answered. One empty "
        "string for none.",
    )
    review_topics: tuple[str, ...] = setting(
        ("web/correction",),
        "Topics of std_msgs/String on which programs such as the live page send reviews: all "
        "places of a thing in one picture. One empty string for none.",
    )
    correction_query: str = setting(
        "",
        "The words for the thing of which ~/correction speaks, such as `red mug`.",
        live=True,
    )
    max_disk_mb: float = setting(
        10000.0, "All bags in the folder together.", unit="MB", minimum=1.0, maximum=1e9
    )
    when_full: str = setting(
        "drop_oldest",
        "With max_disk_mb used: remove the oldest bag, or record no more.",
        choices=("drop_oldest", "stop"),
    )
    min_free_mb: float = setting(
        500.0,
        "So much of the disk stays free, whoever fills it; below it `when_full` applies.",
        unit="MB",
        minimum=0.0,
        maximum=1e9,
    )
    split_mb: float = setting(
        500.0,
        "A bag that is larger is ended and another begun; at most half of max_disk_mb.",
        unit="MB",
        minimum=0.1,
        maximum=1e6,
    )
    split_s: float = setting(
        600.0, "Likewise, by a bag's age.", unit="s", minimum=1.0, maximum=86400.0
    )
    flush_period_s: float = setting(
        1.0,
        "What was recorded longer ago survives a kill of the node.",
        unit="s",
        minimum=0.05,
        maximum=60.0,
        live=True,
    )
    diagnostics_period_s: float = setting(
        1.0, "Time between two messages on /diagnostics.", unit="s", minimum=0.1, maximum=60.0
    )


NODES: dict[
    str,
    type[
        CameraParameters | GroundingParameters | ArmParameters | RecorderParameters | WebParameters
    ],
] = {
    "arm_node": ArmParameters,
    "camera_node": CameraParameters,
    "grounding_node": GroundingParameters,
    "recorder_node": RecorderParameters,
    "web_node": WebParameters,
}
# Under NAME. of each camera that a node names.
OF_EACH_CAMERA: dict[str, type[GroundedCameraParameters]] = {
    "grounding_node": GroundedCameraParameters
}
