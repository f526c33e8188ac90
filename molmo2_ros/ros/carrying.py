"""Follows the camera in a thread: each frame joins the clip and gets the targets carried to it."""

from __future__ import annotations

import time
from collections.abc import Callable

from rclpy.context import Context
from sensor_msgs.msg import CompressedImage, Image

from molmo2_ros.camera.clip import ClipBuffer, PushResult
from molmo2_ros.camera.frame import Frame
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter
from molmo2_ros.ros.frames import FrameAssembler
from molmo2_ros.ros.mailbox import Mailbox
from molmo2_ros.ros.metres import Metres
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.results import Results
from molmo2_ros.ros.target_frame import Publish
from molmo2_ros.ros.worker import Worker
from molmo2_ros.tracking.target import shown
from molmo2_ros.tracking.tracker import Tracker

_WAIT_S = 0.5


class Carrying:
    """Between the image callback and ~/points.

    Args:
        frames: completes images with optics and depth.
        clip: what the engine is asked about.
        tracker: carries the targets.
        results: where they are published.
        place: gets each frame's targets with its stamp and frame_id, for what is given in metres.
        parameters: the newest snapshot.
        problems: takes note of images that cannot be read.
        on_frame: told each frame that joined the clip.
        context: of the node.
    """

    def __init__(
        self,
        *,
        frames: FrameAssembler,
        clip: ClipBuffer,
        tracker: Tracker,
        results: Results,
        place: Publish,
        parameters: Callable[[], GroundingParameters],
        problems: ProblemLog,
        on_frame: Callable[[Frame], None],
        context: Context,
    ) -> None:
        self._frames = frames
        self._clip = clip
        self._tracker = tracker
        self._results = results
        self._place = place
        self._parameters = parameters
        self._problems = problems
        self._on_frame = on_frame
        self.mailbox: Mailbox[Image | CompressedImage] = Mailbox()
        self.frame_rate = RateMeter()
        self.metres = Metres()
        self.num_targets = 0
        self.carry_s = 0.0  # of the last frame
        self.oldest_s = 0.0  # age of the target that the model confirmed longest ago
        self.num_lost = 0  # never reached the subscription, as DDS tells
        self._worker = Worker("camera", self._step, problems, context)

    def start(self) -> None:
        """Begin to follow the camera."""
        self._worker.start()

    def stop(self) -> None:
        """End, and let the waiting image go."""
        self.mailbox.close()
        self._worker.stop(timeout_s=10.0)

    def on_lost(self, num_images: int) -> None:
        """DDS says that so many images got lost before they came here."""
        self.num_lost += num_images

    @property
    def has_depth(self) -> bool:
        """Whether any depth image came."""
        return self._frames.has_depth

    @property
    def num_targets_lost(self) -> int:
        """Targets that were given up since the start: they left, or flow lost them."""
        return self._tracker.num_lost

    def _step(self) -> None:
        message = self.mailbox.take(_WAIT_S)
        if message is not None:
            self.follow(message)

    def follow(self, message: Image | CompressedImage) -> None:
        """Carry the targets to an image, and publish them.

        Raises:
            ImageError: the image cannot be read.
        """
        parameters = self._parameters()
        frame = self._frames.frame_of(
            message, parameters.depth_tolerance_s, parameters.image_rotation
        )
        if self._clip.push(frame) is PushResult.REPEATED:
            return
        self._problems.clear("camera")
        self.frame_rate.tick()
        # The tracker first: an answer must never be about a frame that it has not seen.
        started_s = time.perf_counter()
        targets = shown(
            self._tracker.update(frame), parameters.target_max_age_s, parameters.min_quality
        )
        self.carry_s = time.perf_counter() - started_s
        self.oldest_s = max((target.age_s for target in targets), default=0.0)
        self._on_frame(frame)
        self.num_targets = len(targets)
        self.metres.add(frame, targets, self._frames.obstacles)
        self._results.publish_targets(frame, targets, parameters)
        self._place(targets, frame.stamp_ns, frame.frame_id)
