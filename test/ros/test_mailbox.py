"""The newest item wins and what it replaced is counted."""

import threading

from molmo2_ros.ros.mailbox import Mailbox


def test_the_newest_wins_and_the_replaced_are_counted():
    box = Mailbox()
    for item in (1, 2, 3):
        box.put(item)

    assert box.take(0.0) == 3
    assert (box.num_put, box.num_dropped) == (3, 2)
    assert box.take(0.0) is None


def test_take_wakes_for_an_item_from_another_thread():
    box = Mailbox()
    taken = []
    worker = threading.Thread(target=lambda: taken.append(box.take(60.0)))
    worker.start()

    box.put("frame")
    worker.join(60.0)

    assert taken == ["frame"]


def test_close_wakes_the_worker_and_ends_it():
    box = Mailbox()
    taken = []
    worker = threading.Thread(target=lambda: taken.append(box.take(60.0)))
    worker.start()

    box.close()
    worker.join(60.0)

    assert taken == [None]
    assert not box.is_open
    box.put(1)
    assert box.take(0.0) is None
