"""What waits for one viewer: of everything that has a newer version only the newest."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Collection, Hashable

from molmo2_ros.web.scene import Scene

MAX_EVENTS = 64  # that have no newer version, such as whole answers
MAX_UNDRAWN = 2  # scenes on their way to a viewer that tells when it has drawn
_LATENCIES_KEPT = 256


class Outbox:
    """Bounded, whatever the viewer does: a slow one gets fewer pictures, never older ones.

    Use from the server's event loop only.
    """

    def __init__(self) -> None:
        self.cameras: Collection[str] | None = None  # wanted; None for all
        self.wants_scenes = False
        self.wants_pictures = False
        self.acknowledges = True
        self.num_sent = 0  # scenes
        self.num_replaced = 0  # scenes that a newer one replaced before they were sent
        self.num_events_lost = 0
        self.latencies_s: deque[float] = deque(maxlen=_LATENCIES_KEPT)  # arrival to drawn
        self._waiting: OrderedDict[Hashable, Scene | str] = OrderedDict()
        self._undrawn: dict[int, float] = {}  # arrived_s by number
        self._num_events = 0
        self._next_event = 0
        self._news = asyncio.Event()

    def watch(
        self,
        cameras: Collection[str] | None,
        *,
        scenes: bool,
        pictures: bool,
        acknowledges: bool,
    ) -> None:
        """Change what this viewer wants; what waits and is not wanted any more goes."""
        self.cameras, self.wants_scenes, self.wants_pictures = cameras, scenes, pictures
        self.acknowledges = acknowledges
        self._undrawn.clear()
        for key, item in list(self._waiting.items()):
            if isinstance(item, Scene) and not self.wants(item.camera):
                del self._waiting[key]
        self._news.set()

    def wants(self, camera: str) -> bool:
        """Whether scenes of a camera are sent to this viewer."""
        return self.wants_scenes and (self.cameras is None or camera in self.cameras)

    def put_scene(self, scene: Scene) -> None:
        """A newer scene of a camera takes the place of one that waits."""
        if not self.wants(scene.camera):
            return
        key = ("scene", scene.camera)
        self.num_replaced += key in self._waiting
        self._waiting[key] = scene
        self._news.set()

    def put_state(self, key: Hashable, text: str) -> None:
        """A newer state of the same key takes the place of one that waits."""
        self._waiting[("state", key)] = text
        self._news.set()

    def put_event(self, text: str, *, ends: Hashable = None) -> None:
        """Something that happens once; the oldest such is lost where too many wait.

        Args:
            text: the message.
            ends: key of a state that this is the last word about.
        """
        self._waiting.pop(("state", ends), None)
        self._waiting[("event", self._next_event)] = text
        self._next_event += 1
        self._num_events += 1
        if self._num_events > MAX_EVENTS:
            oldest = next(k for k in self._waiting if isinstance(k, tuple) and k[0] == "event")
            del self._waiting[oldest]
            self._num_events -= 1
            self.num_events_lost += 1
        self._news.set()

    def drawn(self, number: int, now_s: float) -> None:
        """The viewer has drawn a scene; scenes before it that it left out count as drawn, too.

        Args:
            number: of the scene.
            now_s: seconds since the epoch.
        """
        arrived_s = self._undrawn.get(number)
        if arrived_s is None:
            return
        self.latencies_s.append(now_s - arrived_s)
        for other in [n for n in self._undrawn if n <= number]:
            del self._undrawn[other]
        self._news.set()

    def pop(self) -> Scene | str | None:
        """What is sent next, oldest first; scenes only while few are on their way."""
        is_full = self.acknowledges and len(self._undrawn) >= MAX_UNDRAWN
        for key, item in self._waiting.items():
            if isinstance(item, Scene):
                if is_full:
                    continue
                self.num_sent += 1
                if self.acknowledges:
                    self._undrawn[item.number] = item.arrived_s
            elif isinstance(key, tuple) and key[0] == "event":
                self._num_events -= 1
            del self._waiting[key]
            return item
        return None

    async def take(self) -> Scene | str:
        """Wait for what `pop` gives."""
        while (item := self.pop()) is None:
            self._news.clear()
            await self._news.wait()
        return item

    def __len__(self) -> int:
        return len(self._waiting)
