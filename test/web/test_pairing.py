"""Pictures and targets come on different ways, and are shown together or not at all."""

from molmo2_ros.web.pairing import MAX_WAITING, PATIENCE_S, Pairing
from molmo2_ros.web.scene import Mark


def mark(node, u):
    return Mark(
        node=node, query_id=1, track_id=1, u=u, v=0.0, xyz_m=None, age_s=0.0, quality=1.0,
        confidence=1.0, measured=True,
    )  # fmt: skip


class Stage:
    """What was shown, as (camera, stamp, places of marks), and a clock that the test turns."""

    def __init__(self):
        self.shown = []
        self.now_s = 100.0
        self.pairing = Pairing(self.show, clock=lambda: self.now_s)

    def show(self, pair):
        places = None if pair.marks is None else [found.u for found in pair.marks]
        self.shown.append((pair.camera, pair.stamp_ns, places))
        self.nodes = pair.nodes

    def picture(self, *stamps, camera="left"):
        for stamp_ns in stamps:
            self.pairing.picture(camera, f"{camera}_optical", stamp_ns, object(), 0.0)

    def points(self, stamp_ns, *places, node="grounding", camera="left"):
        marks = [mark(node, place) for place in places]
        self.pairing.points(node, f"{camera}_optical", stamp_ns, marks)


def test_a_camera_of_which_nobody_speaks_is_shown_at_once():
    stage = Stage()
    stage.picture(1, 2)
    assert stage.shown == [("left", 1, None), ("left", 2, None)]


def test_a_picture_waits_for_its_own_targets():
    stage = Stage()
    stage.picture(1)
    stage.points(1, 5.0)  # came too late, and says that somebody speaks
    stage.picture(2)
    stage.picture(3)
    assert stage.shown[1:] == []
    stage.points(2, 7.0)
    stage.points(3)
    assert stage.shown[1:] == [("left", 2, [7.0]), ("left", 3, [])]


def test_pictures_that_a_busy_node_left_out_are_not_shown_later():
    stage = Stage()
    stage.points(0)
    stage.picture(1)
    stage.points(1)
    stage.picture(2, 3, 4)
    stage.points(4, 9.0)
    stage.points(2, 1.0)
    assert stage.shown == [("left", 1, None), ("left", 4, [9.0])]


def test_two_nodes_that_speak_of_one_camera_are_both_waited_for():
    stage = Stage()
    stage.picture(0)
    stage.points(0, node="a")
    stage.points(0, node="b")
    stage.picture(1)
    stage.points(1, 2.0, node="b")
    assert stage.shown == [("left", 0, None)]
    stage.points(1, 1.0, node="a")
    assert stage.shown[1:] == [("left", 1, [1.0, 2.0])]
    assert stage.nodes == ("a", "b")


def test_a_node_that_fell_silent_is_waited_for_no_more():
    stage = Stage()
    stage.picture(0)
    stage.points(0)
    stage.picture(1)
    assert len(stage.shown) == 1
    stage.now_s += PATIENCE_S
    stage.picture(2)
    assert stage.shown[1:] == [("left", 2, None)]


def test_targets_of_one_camera_say_nothing_about_another():
    stage = Stage()
    stage.picture(0)
    stage.points(0)
    stage.picture(1)
    stage.picture(1, camera="right")
    stage.points(1, 3.0, camera="right")
    assert stage.shown[1:] == [("right", 1, None)]


def test_a_camera_that_begins_anew_and_one_that_runs_away_hold_few_pictures():
    stage = Stage()
    stage.picture(50)
    stage.points(50)
    stage.picture(*range(60, 60 + 3 * MAX_WAITING))
    stage.points(60, 1.0)  # gone already
    assert len(stage.shown) == 1
    stage.picture(3)  # a bag that plays again
    stage.points(3, 4.0)
    assert stage.shown[1:] == [("left", 3, [4.0])]
