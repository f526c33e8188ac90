"""`molmo2 bag`: the grounding node's own path from image to points, fed by a bag's messages."""

from __future__ import annotations

import argparse
import json
import logging
import re
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rclpy.context import Context
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from molmo2_ros.answer_loop import AnswerLoop, AnswerTerms
from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.bags.bag import Bag, BagMessage
from molmo2_ros.bags.skips import Skips
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.errors import ConfigError, DataError, Molmo2Error
from molmo2_ros.opening import grounder_of, open_model
from molmo2_ros.prompt.query import Query
from molmo2_ros.ros.bag_copy import BagCopy
from molmo2_ros.ros.carrying import Carrying
from molmo2_ros.ros.diagnostics import ProblemLog
from molmo2_ros.ros.frames import FrameAssembler
from molmo2_ros.ros.grounded_camera import asked_camera
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.results import Results
from molmo2_ros.ros.topics import Publisher
from molmo2_ros.standing import StandingQueries, parse_standing
from molmo2_ros.tracking.target import Target

_IMAGES = {"sensor_msgs/msg/Image": Image, "sensor_msgs/msg/CompressedImage": CompressedImage}
_CAMERA = "image"
_NODE = re.compile(r"/?[A-Za-z]\w*(/[A-Za-z]\w*)*", re.ASCII)
_QUERIES_PERIOD_NS = NS_PER_S


@dataclass(frozen=True, slots=True, kw_only=True)
class BagTopics:
    """Which topics of a bag are which of the node's."""

    image: str
    camera_info: str = ""
    depth: str = ""
    depth_info: str = ""


def choose_topics(
    bag: Bag, image: str = "", camera_info: str = "", depth: str = "", depth_info: str = ""
) -> BagTopics:
    """Find what was not named: the only camera, and optics beside the pictures.

    Raises:
        DataError: a topic is missing or of another kind, or there are several cameras.
    """
    there = bag.topics
    # Depth pictures are no camera to ask about, though they are images.
    cameras = [t for t, kind in there.items() if kind in _IMAGES and "depth" not in t]
    if not image and len(cameras) != 1:
        raise DataError(
            f"the bag {bag.path} has {len(cameras)} image topics "
            f"({', '.join(sorted(cameras)) or 'none'}), expected one; name it by --topic"
        )
    image = image or cameras[0]
    bag.require([image], _IMAGES)
    for topic in filter(None, (camera_info, depth_info)):
        bag.require([topic], ["sensor_msgs/msg/CameraInfo"])
    if depth:
        bag.require([depth], ["sensor_msgs/msg/Image"])
    return BagTopics(
        image=image,
        camera_info=camera_info or _beside(image, there),
        depth=depth,
        depth_info=depth_info or (_beside(depth, there) if depth else ""),
    )


def _beside(topic: str, there: dict[str, str]) -> str:
    """The camera_info that belongs to an image topic by ROS's own custom, "" where none does."""
    parts = topic.split("/")
    while len(parts) > 1:
        parts = parts[:-1]
        name = "/".join([*parts, "camera_info"])
        if there.get(name) == "sensor_msgs/msg/CameraInfo":
            return name
    return ""


class _CopyTopics:
    """See Topics: the results go into the copy."""

    def __init__(self, copy: BagCopy, node: str, *, overlay: bool) -> None:
        self._copy = copy
        self._node = node.strip("/")
        self._overlay = overlay

    def result(self, name: str, kind: Any) -> Publisher:
        """See Topics."""
        is_wanted = self._overlay or not name.startswith("overlay")
        return self._copy.publisher(f"/{self._node}/{name}", kind, is_wanted=is_wanted)

    def state(self, name: str, kind: Any) -> Publisher:
        """See Topics."""
        return self.result(name, kind)

    def now_ns(self) -> int:
        """See Topics."""
        return self._copy.log_ns


class _Timeless:
    """Answers without how long they took: that differs from run to run."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def publish_answer(
        self,
        answer: Answer,
        rows: Sequence[Target],
        query_id: int,
        frame: Frame,
        *,
        refused: bool = False,
    ) -> None:
        """See AnswerSink."""
        timing = replace(answer.timing, encode_s=0.0, prefill_s=0.0, decode_s=0.0)
        self._results.publish_answer(
            replace(answer, timing=timing), rows, query_id, frame, refused=refused
        )

    def forget(self, query_id: int) -> None:
        """See AnswerSink."""
        self._results.forget(query_id)


class BagReplay:
    """A grounding node without topics and threads, whose clock is the bag's.

    Args:
        copy: where all messages go.
        topics: of the bag.
        grounder: asks the model.
        queries: that stand from the first image to the last.
        parameters: as those of the node.
        name: of the node whose topics are written.

    Raises:
        QueryError: the model cannot be asked one of the queries.
        DataError: the bag has topics of this node already.
    """

    def __init__(
        self,
        copy: BagCopy,
        topics: BagTopics,
        *,
        grounder: AnyGrounder,
        queries: Sequence[Query],
        parameters: GroundingParameters,
        name: str,
    ) -> None:
        for query in queries:
            grounder.check(query)
        self.problems = ProblemLog(logging.getLogger(__name__))
        self.results = Results(_CopyTopics(copy, name, overlay=parameters.overlay))
        self._copy = copy
        self._image_topic = topics.image
        self._grounder = grounder
        self._parameters = parameters
        self._now_ns = 0
        self._queries_told_ns: int | None = None
        frames = FrameAssembler(self.problems)
        self._kept: dict[str, tuple[Any, Callable[[Any], None]]] = {
            topics.camera_info: (CameraInfo, frames.on_camera_info),
            topics.depth: (Image, frames.on_depth),
            topics.depth_info: (CameraInfo, frames.on_depth_info),
        }
        self._queries = StandingQueries(parameters.max_queries)
        self._queries.replace_parameter(queries, 0.0)
        asked = asked_camera(
            _CAMERA,
            lambda: parameters,
            queries=self._queries,
            sink=_Timeless(self.results),
            problems=self.problems,
        )
        self._loop = AnswerLoop(
            grounder=grounder,
            cameras=[asked],
            terms=lambda: AnswerTerms(constrained=parameters.constrained, partial_share=0.0),
            problems=self.problems,
            clock=lambda: self._now_ns / NS_PER_S,
        )
        self._carrying = Carrying(
            frames=frames,
            clip=asked.clip,
            tracker=asked.tracker,
            results=self.results,
            place=self.results.publish_places,
            parameters=lambda: parameters,
            problems=self.problems,
            on_frame=lambda frame: self._loop.on_frame(_CAMERA, frame),
            context=Context(),
        )

    def take(self, message: BagMessage) -> None:
        """Copy a message, and say what a node would have said of it."""
        self._copy.copy(message)
        # Recorders write in the order of arrival; a clock that was set back must not undo that.
        self._now_ns = max(self._now_ns, message.log_ns)
        self._copy.log_ns = message.log_ns
        try:
            self._read(message)
        except Molmo2Error as error:
            self.problems.report("camera", error)

    def _read(self, message: BagMessage) -> None:
        if message.topic == self._image_topic:
            self._carrying.follow(_decoded(message, _IMAGES[message.kind]))
            self._tell_queries()
            while self._loop.answer_due():
                pass
        elif message.topic in self._kept:
            kind, keep = self._kept[message.topic]
            keep(_decoded(message, kind))

    def _tell_queries(self) -> None:
        told_ns = self._queries_told_ns
        if told_ns is not None and self._now_ns - told_ns < _QUERIES_PERIOD_NS:
            return
        self._queries_told_ns = self._now_ns
        now_s = self._now_ns / NS_PER_S
        self.results.publish_queries(
            self._queries.all(now_s),
            self._loop.states(_CAMERA),
            now_s,
            default_rate_hz=self._parameters.answer_rate_hz,
            is_active=True,
            model=self._grounder.model,
        )

    @property
    def num_frames(self) -> int:
        """Frames that were followed."""
        return self._carrying.frame_rate.count


def _decoded(message: BagMessage, kind: Any) -> Any:
    try:
        return deserialize_message(message.data, kind)
    except Exception as error:  # rclpy raises whatever its C part does
        raise DataError(
            f"{message.place} is no {message.kind} ({error}); it is copied as it is"
        ) from error


def run(options: argparse.Namespace) -> int:
    """Replay as the command line says.

    Raises:
        Molmo2Error: the bag, a topic, a query or the engine cannot be used.
    """
    skips = Skips()
    if not _NODE.fullmatch(options.name):
        raise ConfigError(
            f"--name is {options.name!r}, expected a node's name such as grounding or robot/eye"
        )
    queries = parse_standing(options.query)
    parameters = GroundingParameters(
        answer_rate_hz=options.rate,
        image_rotation=options.rotation,
        constrained=options.constrained,
        overlay=options.overlay,
    )
    begun_s = time.monotonic()
    with Bag(options.source, skips) as bag:
        topics = choose_topics(
            bag, options.topic, options.camera_info, options.depth, options.depth_info
        )
        model = open_model(
            options.engine,
            threads=options.threads,
            device=options.device,
            constrained=options.constrained,
        )
        with BagCopy(bag, options.out) as copy:
            replay = BagReplay(
                copy,
                topics,
                grounder=grounder_of(model, constrained=options.constrained),
                queries=queries,
                parameters=parameters,
                name=options.name,
            )
            start_ns, end_ns = bag.span_ns
            for message in bag.messages(list(bag.topics)):
                replay.take(message)
    took_s = time.monotonic() - begun_s
    told = {
        "frames": replay.num_frames,
        "answers": replay.results.answer_rate.count,
        "messages_added": copy.num_added,
        "bag_s": round((end_ns - start_ns) / NS_PER_S, 3),
        "took_s": round(took_s, 3),
        "problems": replay.problems.counts,
        "left_out": dict(skips.counts),
        "out": str(options.out),
    }
    if options.json:
        print(json.dumps(told))
    else:
        problems = ", ".join(f"{n} {kind}" for kind, n in replay.problems.counts.items())
        print(
            f"{told['frames']} frames of {topics.image}, {told['answers']} answers, "
            f"{told['messages_added']} messages added; {told['bag_s']:.1f} s of bag in "
            f"{took_s:.1f} s; wrote {options.out}" + (f"; problems: {problems}" if problems else "")
        )
    if not replay.num_frames:
        print(f"molmo2 bag: no image of {topics.image} could be read", file=sys.stderr)
        return 1
    return 0
