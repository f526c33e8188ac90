import numpy as np
import pytest

from molmo2_ros.simulation.objects import CATEGORY_NAMES, COLOUR_NAMES, OWN_COLOUR
from molmo2_ros.training.scenes import (
    GONE,
    SEEN,
    UNCLEAR,
    absent_thing,
    clip_questions,
    has_gap,
    locate,
    still_question,
    still_questions,
    track_question,
    write_coordinate,
)

MUG, LEMON = CATEGORY_NAMES.index("mug"), CATEGORY_NAMES.index("lemon")
RED, BLUE = COLOUR_NAMES.index("red"), COLOUR_NAMES.index("blue")
LEFT, RIGHT, LOW = (20, 60, 40, 80), (120, 60, 140, 80), (60, 130, 80, 150)


@pytest.fixture
def still(make_clip, make_thing):
    objects = [make_thing("mug", "blue"), make_thing("mug", "red"), make_thing("lemon")]
    return locate(make_clip(objects, [[RIGHT, LEFT, LOW]]))


def test_locate_gives_area_and_centre_of_a_rectangle(still):
    assert still.area[0].tolist() == [400, 400, 400]
    # The red mug covers columns 20..39 and rows 60..79: its middle is at 30/168, 70/168.
    assert still.centre[0, 1] == pytest.approx([30 / 168, 70 / 168])
    assert still.state[0].tolist() == [SEEN, SEEN, SEEN]


def test_centre_of_a_ring_lies_on_the_ring(make_clip, make_thing):
    clip = make_clip([make_thing("donut")], [[(40, 40, 100, 100)]])
    clip.instances[0, 50:90, 50:90] = 0
    x, y = locate(clip).centre[0, 0]
    assert clip.instances[0, int(y * 168), int(x * 168)] == 1


@pytest.mark.parametrize(
    ("box", "fraction", "state"),
    [
        ((0, 0, 10, 10), 0.31, SEEN),  # 100 pixels, just over 30 % visible
        ((0, 0, 10, 9), 1.0, UNCLEAR),  # 90 pixels: too small to ask for, too big to deny
        ((0, 0, 20, 20), 0.2, UNCLEAR),  # large but four fifths hidden
        ((0, 0, 2, 3), 1.0, GONE),  # 6 pixels
        (None, 0.0, GONE),
    ],
)
def test_an_object_counts_by_area_and_visible_share(make_clip, make_thing, box, fraction, state):
    clip = make_clip([make_thing("mug", "red")], [[box]], fraction=[[fraction]])
    assert locate(clip).state[0, 0] == state


def test_still_answers_are_in_the_trained_forms(still):
    one = still_question(still, "point", MUG, RED, None)
    assert one.text == "Point to the red mug."
    assert one.answer == '<points coords="0.0 1 180 420">red mug</points>'
    everything = still_question(still, "point_all", MUG, OWN_COLOUR, None)
    assert everything.text == "Point to all mugs."
    # Sorted by x: the red mug stands left of the blue one.
    assert everything.answer == '<points coords="0.0 1 180 420 2 770 420">mugs</points>'
    assert [t.instance for t in everything.targets] == [2, 1]
    count = still_question(still, "count", MUG, OWN_COLOUR, None)
    assert count.answer == (
        'Counting the <points coords="0.0 1 180 420 2 770 420">mugs</points> shows a total of 2.'
    )
    none = still_question(still, "point", LEMON, RED, None)
    assert none.answer == "There are none."


def test_a_single_point_question_about_several_things_asks_for_all(still):
    assert still_question(still, "point", MUG, OWN_COLOUR, None).kind == "point_all"


def test_no_question_is_asked_when_an_unclear_object_would_decide_it(make_clip, make_thing):
    clip = make_clip([make_thing("mug", "red")], [[LEFT]], fraction=[[0.1]])
    assert still_question(locate(clip), "point", MUG, RED, None) is None


def test_coordinates_are_rounded_to_ten_and_stay_three_digits():
    assert [write_coordinate(v) for v in (0.0, 0.004, 0.006, 0.5, 0.999)] == [
        "000",
        "000",
        "010",
        "500",
        "990",
    ]


def test_track_leaves_out_frames_in_which_the_object_is_hidden(make_clip, make_thing):
    clip = make_clip([make_thing("lemon")], [[LEFT], [None], [RIGHT]])
    question = track_question(locate(clip), (0.0, 0.5, 1.0), LEMON, OWN_COLOUR, None)
    assert question.text == "Track the lemon."
    assert question.answer == '<tracks coords="0.0 1 180 420;1.0 1 770 420">lemon</tracks>'
    assert has_gap(locate(clip))


def test_track_ids_follow_first_sight_and_survive_a_gap(make_clip, make_thing):
    objects = [make_thing("mug", "blue"), make_thing("mug", "red")]
    clip = make_clip(objects, [[RIGHT, None], [None, LEFT], [RIGHT, LEFT]])
    question = track_question(locate(clip), (0.0, 0.5, 1.0), MUG, OWN_COLOUR, None)
    assert question.answer == (
        '<tracks coords="0.0 1 770 420;0.5 2 180 420;1.0 1 770 420 2 180 420">mugs</tracks>'
    )


def test_seeded_track_lists_only_the_frames_after_the_given_point(make_clip, make_thing):
    clip = make_clip([make_thing("lemon")], [[LEFT], [RIGHT]])
    question = track_question(locate(clip), (0.0, 0.5), LEMON, OWN_COLOUR, None, from_point=True)
    assert question.text == (
        "video_single_point_track_per_frame: Track "
        '<points coords="0.0 1 179 417">lemon</points> in 2 FPS.'
    )
    assert question.answer == '<tracks coords="0.5 1 770 420">lemon</tracks>'


def test_hard_absent_things_share_category_or_colour_and_are_never_present(still):
    present = {tuple(o) for o in still.objects.tolist()}
    rng = np.random.default_rng(0)
    for _ in range(200):
        category, colour = absent_thing(still, rng, hard=True)
        assert (category, colour) not in present
        assert category in {MUG, LEMON} or colour in {RED, BLUE}
        category, colour = absent_thing(still, rng, hard=False)
        assert category not in {MUG, LEMON}


def test_drawn_questions_are_distinct_and_their_targets_lie_on_what_is_asked(still):
    rng = np.random.default_rng(1)
    for _ in range(50):
        questions = still_questions(still, rng)
        assert len({q.text for q in questions}) == len(questions)
        for question in questions:
            assert len(question.targets) == len(question.instances)
            assert question.absent == (question.answer == "There are none.")


def test_clip_questions_cover_gaps_seeds_and_absence(make_clip, make_thing):
    objects = [make_thing("mug", "blue"), make_thing("mug", "red"), make_thing("lemon")]
    clip = make_clip(objects, [[RIGHT, LEFT, LOW], [RIGHT, None, LOW], [RIGHT, LEFT, None]])
    sightings, rng = locate(clip), np.random.default_rng(2)
    kinds = set()
    for _ in range(20):
        for question in clip_questions(sightings, (0.0, 0.5, 1.0), rng):
            kinds.add((question.kind, question.absent))
    assert {("track", False), ("track", True), ("seed", False)} <= kinds
