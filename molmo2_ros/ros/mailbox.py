"""A place for one thing between a callback and a worker: the newest wins, the rest is counted."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

T = TypeVar("T")


class Mailbox(Generic[T]):
    """Holds the newest item until the worker takes it."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()  # guards _item, _open, num_put and num_dropped
        self._item: T | None = None
        self._open = True
        self.num_put = 0
        self.num_dropped = 0  # replaced by a newer one before anybody took them

    def put(self, item: T) -> None:
        """Leave the newest item; one that still waits is dropped and counted."""
        with self._arrived:  # guards _item, _open, num_put and num_dropped
            self.num_put += 1
            self.num_dropped += self._item is not None
            self._item = item
            self._arrived.notify()

    def take(self, timeout_s: float) -> T | None:
        """Wait for an item and take it.

        Returns:
            the newest item, or None after `timeout_s` or once the mailbox is closed.
        """
        with self._arrived:  # guards _item, _open, num_put and num_dropped
            self._arrived.wait_for(lambda: self._item is not None or not self._open, timeout_s)
            item, self._item = self._item, None
            return item if self._open else None

    def close(self) -> None:
        """Wake the worker for the last time."""
        with self._arrived:  # guards _item, _open, num_put and num_dropped
            self._open = False
            self._item = None
            self._arrived.notify_all()

    @property
    def is_open(self) -> bool:
        """False once the worker should end."""
        with self._arrived:  # guards _item, _open, num_put and num_dropped
            return self._open
