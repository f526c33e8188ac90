"""What waits for a viewer: newest wins, bounded, and in order."""

import asyncio
import dataclasses

import pytest

from molmo2_ros.web.outbox import MAX_EVENTS, MAX_UNDRAWN, Outbox
from molmo2_ros.web.scene import Mark, Scene


def scene(number, camera="left"):
    made = Scene(
        camera=camera, frame_id="", stamp_ns=number, width=4, height=3, marks=[],
        jpeg=lambda: b"jpeg", arrived_s=float(number),
    )  # fmt: skip
    made.number = number
    return made


def watching(**wanted):
    box = Outbox()
    box.watch(None, **{"scenes": True, "pictures": True, "acknowledges": True, **wanted})
    return box


def taken(box):
    """All that can be sent now."""
    return list(iter(box.pop, None))


def numbers(items):
    return [item.number if isinstance(item, Scene) else item for item in items]


def test_a_newer_scene_of_a_camera_replaces_the_one_that_waits():
    box = watching()
    for number in (1, 2, 3):
        box.put_scene(scene(number))
    box.put_scene(scene(4, "right"))
    assert numbers(taken(box)) == [3, 4]
    assert box.num_replaced == 2


def test_only_so_many_scenes_are_on_their_way_until_one_is_drawn():
    box = watching()
    for number in range(1, MAX_UNDRAWN + 3):
        box.put_scene(scene(number))
        assert numbers(taken(box)) == ([number] if number <= MAX_UNDRAWN else [])
    box.put_event("news")
    assert taken(box) == ["news"]
    box.drawn(1, 1.25)
    assert numbers(taken(box)) == [MAX_UNDRAWN + 2]
    assert list(box.latencies_s) == [0.25]


def test_a_scene_that_was_drawn_makes_room_for_those_left_out_before_it():
    box = watching()
    for number in (1, 2):
        box.put_scene(scene(number))
        taken(box)
    box.drawn(2, 3.0)
    for number in (3, 4):
        box.put_scene(scene(number))
        assert numbers(taken(box)) == [number]
    box.drawn(99, 3.0)  # a number that was never sent says nothing
    box.put_scene(scene(5))
    assert taken(box) == []


def test_who_does_not_acknowledge_gets_all_that_the_socket_takes():
    box = watching(acknowledges=False)
    for number in range(1, 9):
        box.put_scene(scene(number))
        assert numbers(taken(box)) == [number]


def test_nothing_is_kept_of_a_camera_that_is_not_watched():
    box = Outbox()
    box.put_scene(scene(1))
    assert len(box) == 0
    box.watch(["right"], scenes=True, pictures=True, acknowledges=True)
    box.put_scene(scene(2))
    box.put_scene(scene(3, "right"))
    box.watch(["left"], scenes=True, pictures=True, acknowledges=True)
    assert taken(box) == []


def test_the_oldest_events_are_lost_and_counted_where_too_many_wait():
    box = Outbox()
    box.put_state("queries", "old")
    for number in range(MAX_EVENTS + 5):
        box.put_event(f"event {number}")
    box.put_state("queries", "new")
    assert taken(box) == ["new", *(f"event {number}" for number in range(5, MAX_EVENTS + 5))]
    assert box.num_events_lost == 5
    box.put_event("later")
    assert (taken(box), box.num_events_lost) == (["later"], 5)


def test_a_whole_answer_takes_the_place_of_its_parts():
    box = Outbox()
    box.put_state(("answer", 1), "point 1")
    box.put_state(("answer", 2), "other")
    box.put_event("points 1 and 2", ends=("answer", 1))
    assert taken(box) == ["other", "points 1 and 2"]


def test_a_waiting_viewer_wakes_up_when_something_comes():
    async def story():
        box = watching()
        waiting = asyncio.create_task(box.take())
        await asyncio.sleep(0)
        box.put_scene(scene(7))
        return (await asyncio.wait_for(waiting, 5.0)).number

    assert asyncio.run(story()) == 7


def test_a_picture_is_made_once_for_all_viewers_and_survives_one_that_leaves():
    made = []
    shown = dataclasses.replace(scene(1), jpeg=lambda: made.append(1) or b"picture")

    async def in_thread(jpeg):
        await asyncio.sleep(0.01)
        return jpeg()

    async def story():
        viewers = [asyncio.create_task(shown.message(in_thread)) for _ in range(5)]
        await asyncio.sleep(0)
        viewers[0].cancel()
        return await asyncio.gather(*viewers[1:])

    messages = asyncio.run(story())
    assert made == [1]
    assert len(set(messages)) == 1
    length = int.from_bytes(messages[0][:4], "big")
    assert messages[0][4 + length :] == b"picture"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_known_is_null(value):
    mark = Mark(
        node="g", query_id=1, track_id=2, u=3.14159, v=4.0, xyz_m=None, age_s=0.5, quality=1.0,
        confidence=value, measured=True,
    )  # fmt: skip
    assert mark.as_json() == {
        "node": "g", "query_id": 1, "track_id": 2, "u": 3.14, "v": 4.0, "xyz": None, "age": 0.5,
        "quality": 1.0, "confidence": None, "measured": True,
    }  # fmt: skip
