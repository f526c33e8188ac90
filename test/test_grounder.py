"""The Grounder over a real engine: one reading for all questions, streaming, and refusals."""

import gc
import weakref
from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.answers.answer import point_stamp_ns
from molmo2_ros.answers.writing import LOST_TOKENS
from molmo2_ros.asking import ASK_TOKENS, CAPTION_TOKENS
from molmo2_ros.camera.clip import Clip, ClipBuffer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import QueryError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.layout import clip_prefix, question_suffix
from molmo2_ros.prompt.query import Query, QueryKind, Span, parse_query, question_text
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import generate, prefill
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.features import FeatureCache
from molmo2_ros.runtime.golden import Golden
from molmo2_ros.runtime.manifest import SKILLS
from molmo2_ros.simulation.source import TableSource

SECOND = 1_000_000_000
SAID = [Subtitle(start_s=0.0, end_s=1.0, text="Now take the mug.")]


@pytest.fixture(scope="module")
def engine():
    return load_engine(threads=1)


@pytest.fixture
def grounder(engine):
    return Grounder(engine)


def make_frame(time_s, seed=0):
    rng = np.random.default_rng(seed)
    image = np.kron(rng.integers(0, 255, (12, 16, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    return Frame(image=image, stamp_ns=round(time_s * SECOND))


def make_clip(num_frames=2):
    return Clip(tuple(make_frame(index / 2, seed=index) for index in range(num_frames)))


class Taught:
    """An engine with other skills or words in its manifest; all else is the real one."""

    def __init__(self, engine, **changes):
        self._engine = engine
        self.manifest = replace(engine.manifest, **changes)

    def __getattr__(self, name):
        return getattr(self._engine, name)


class Spelling(Taught):
    """An engine that writes a given text whatever it sees, token after token."""

    def __init__(self, engine, text, num_prompt_tokens):
        super().__init__(engine)
        self.script = PromptTokenizer(engine.folder).encode_text(text)
        self.start = num_prompt_tokens

    def forward(self, ids_BS, positions_BS, bias_B1ST, kv, *, logit_indices_L=None, **more):
        logits, kv = self._engine.forward(
            ids_BS, positions_BS, bias_B1ST, kv, logit_indices_L=logit_indices_L, **more
        )
        for column, index in enumerate([-1] if logit_indices_L is None else logit_indices_L):
            place = positions_BS[0, index] - self.start + 1
            if 0 <= place < len(self.script):
                logits[0, column, self.script[place]] = 1e6
        return logits, kv


@pytest.mark.parametrize(
    "question",
    [
        "Point to the red mug",
        "Track the lemon",
        "count: mugs",
        "point[clip]: mugs",
        "caption: long",
    ],
)
def test_the_answer_is_what_the_engine_decodes_greedily(engine, question):
    query, clip = parse_query(question), make_clip()
    grounder = Grounder(Taught(engine, skills=tuple(SKILLS)))
    answer = grounder.answer(clip, query, max_new_tokens=24)
    clip = clip if query.span is Span.CLIP else Clip(clip.frames[-1:])
    tokenizer, cache = PromptTokenizer(engine.folder), FeatureCache(engine)
    prompt = clip_prefix(tokenizer, clip.times_s, cache.tokens_per_frame)
    suffix = question_suffix(tokenizer, question_text(query)).ids
    prefix = prefill(engine, prompt, cache.frames(clip.frames))
    (plain,) = generate(engine, prefix, [suffix], max_new_tokens=24)
    assert answer.text == tokenizer.decode(plain.ids)
    assert answer.truncated == plain.truncated
    assert answer.stamps_ns == clip.stamps_ns
    assert answer.timing.num_answer_tokens == len(plain.ids)
    assert answer.timing.num_prompt_tokens == len(prompt) + len(suffix)


def test_questions_asked_together_are_answered_as_if_alone(grounder):
    clip = make_clip()
    queries = [parse_query(q) for q in ("Point to the red mug", "Track the lemon", "count: mugs")]
    together = grounder.answer_all(clip, queries, max_new_tokens=24)
    alone = [grounder.answer(clip, query, max_new_tokens=24) for query in queries]
    assert [a.text for a in together] == [a.text for a in alone]
    assert [a.query for a in together] == queries


def test_frames_are_encoded_once_and_a_clip_is_read_once(grounder):
    clip = make_clip(3)
    query = parse_query("Track the red mug")
    first = grounder.answer(clip, query, max_new_tokens=4)
    assert first.timing.num_frames_encoded == 3
    assert first.timing.prefill_s > 0
    again = grounder.answer(clip, parse_query("Track the lemon"), max_new_tokens=4)
    assert again.timing.num_frames_encoded == 0
    assert again.timing.prefill_s == 0
    # The window slides by one frame: one frame is new, and the clip is read anew.
    slid = Clip((*clip.frames[1:], make_frame(1.5, seed=9)))
    later = grounder.answer(slid, query, max_new_tokens=4)
    assert later.timing.num_frames_encoded == 1
    assert later.timing.prefill_s > 0


def test_a_limit_cuts_the_answer_off(grounder):
    answer = grounder.answer(make_clip(), parse_query("Track the lemon"), max_new_tokens=1)
    assert answer.truncated
    assert not answer.partial
    assert answer.timing.num_answer_tokens == 1


def test_a_cancelled_answer_ends_with_what_there_is(grounder):
    asked = []

    def cancel(_):
        asked.append(True)
        return len(asked) > 1

    answer = grounder.answer(
        make_clip(), parse_query("Track the lemon"), cancel=cancel, max_new_tokens=200
    )
    assert answer.timing.num_passes == 1
    assert answer.truncated
    assert "cancelled before its end" in answer.problems


def test_points_are_handed_on_while_the_model_writes(engine, grounder):
    golden = Golden.load(engine.folder / engine.manifest.golden.file)
    clip = Clip(
        tuple(
            Frame(image=image.copy(), stamp_ns=round(time_s * SECOND))
            for image, time_s in zip(golden.frames, golden.times_s, strict=True)
        )
    )
    partial = []
    answer = grounder.answer(clip, parse_query(golden.question), on_partial=partial.append)
    # The golden answer may be cut off; this one is whole.
    assert answer.text.startswith(PromptTokenizer(engine.folder).decode(golden.tokens))
    assert answer.points
    assert [len(so_far.points) for so_far in partial] == list(range(1, len(answer.points) + 1))
    for so_far in partial:
        assert so_far.partial
        assert not so_far.truncated
        assert answer.points[: len(so_far.points)] == so_far.points
        assert answer.text.startswith(so_far.text)
    assert not answer.partial
    assert all(0 < point.confidence <= 1 for point in answer.points)


@pytest.mark.parametrize(
    ("question", "skills", "lacking"),
    [
        ("Is the drawer open?", ("point", "track"), "'ask'"),
        ("count: mugs", ("point", "track"), "'count'"),
        ("caption: short", ("point", "track"), "'caption' .describe what it sees"),
        ("point[clip]: mugs", ("point", "track"), "'clip' .point and count over all frames"),
        ("count[clip]: mugs", ("point", "track"), "'count' .count things. and 'clip'"),
        ("point[crops]: the red mug", ("point", "track"), "'crops'"),
        ("track[from 0.5 0.5]: the red mug", ("point", "track"), "'seed'"),
    ],
)
def test_what_the_model_was_not_taught_is_refused_with_what_it_can_do(
    engine, question, skills, lacking
):
    grounder = Grounder(Taught(engine, skills=skills))
    with pytest.raises(QueryError, match=f"cannot do {lacking}.*it can: point, track"):
        grounder.answer(make_clip(), parse_query(question))


def test_several_images_and_subtitles_are_skills_too(engine):
    grounder = Grounder(Taught(engine, skills=("point", "ask", "crops")))
    query = Query(name="q", kind=QueryKind.ASK, words="What differs?")
    with pytest.raises(QueryError, match="cannot do 'images'"):
        grounder.answer_images([make_frame(0), make_frame(1, seed=1)], query)
    with pytest.raises(QueryError, match="cannot do 'subtitles'"):
        grounder.answer(make_clip(), query, subtitles=SAID)


@pytest.mark.parametrize("question", ["point[clip]: mugs", "Track the lemon", "ask[crops]: Open?"])
def test_subtitles_are_for_words_about_a_clip(engine, question):
    grounder = Grounder(Taught(engine, skills=tuple(SKILLS)))
    with pytest.raises(QueryError, match="subtitles are read with questions in words about a clip"):
        grounder.answer(make_clip(), parse_query(question), subtitles=SAID)
    grounder.check(parse_query("ask: Open?"), has_subtitles=True)


def test_pictures_have_no_time(engine):
    grounder = Grounder(Taught(engine, skills=tuple(SKILLS)))
    with pytest.raises(QueryError, match="asks about a video, and these are pictures"):
        grounder.answer_images([make_frame(0)], parse_query("count[clip]: mugs"))
    with pytest.raises(QueryError, match="a track needs several frames"):
        grounder.answer_images([make_frame(0)], parse_query("Track the lemon"))


def test_an_unknown_thing_is_refused_with_what_is_known(engine):
    grounder = Grounder(Taught(engine, vocabulary=("mug", "wine glass", "cardboard box")))
    with pytest.raises(QueryError, match="does not know 'green elephant'.*mug, wine glass"):
        grounder.check(parse_query("Point to the green elephant"))
    for known in ("Point to all mugs", "count: red wine glasses", "Track the cardboard boxes"):
        grounder.check(parse_query(known))


def test_a_model_without_a_word_list_is_asked_anything(engine):
    Grounder(Taught(engine, vocabulary=())).check(parse_query("Point to the green elephant"))


def test_a_track_cannot_be_read_from_one_picture(engine):
    grounder = Grounder(Taught(engine, skills=("track", "crops")))
    with pytest.raises(QueryError, match="a track needs several frames"):
        grounder.check(parse_query("track[crops]: the red mug"))


def test_crops_read_the_newest_frame_as_an_image(engine):
    grounder = Grounder(Taught(engine, skills=("point", "crops", "images")))
    clip = make_clip(3)
    crops = parse_query("point[crops]: the red mug")
    frames = parse_query("point: the red mug")
    first, second = grounder.answer_all(clip, [frames, crops], max_new_tokens=8)
    assert first.stamps_ns == second.stamps_ns == clip.stamps_ns[-1:]
    assert first.timing.num_prompt_tokens != second.timing.num_prompt_tokens
    single = grounder.answer_images([clip.frames[-1]], frames, max_new_tokens=8)
    assert single.text == second.text


def test_each_question_reads_as_much_of_the_clip_as_it_is_about(engine):
    grounder = Grounder(Taught(engine, skills=tuple(SKILLS)))
    clip = make_clip(3)
    queries = [parse_query(f"a={kind}: mugs") for kind in ("count", "count[clip]", "track", "ask")]
    queries += [parse_query("point: the lemon")]
    answers = grounder.answer_all(clip, queries, max_new_tokens=8)
    assert [answer.query for answer in answers] == queries
    assert [len(answer.stamps_ns) for answer in answers] == [1, 3, 3, 3, 1]
    assert all(answer.stamps_ns[-1] == clip.stamps_ns[-1] for answer in answers)
    # The clip was read once for three questions, its newest frame for two.
    assert len({answer.timing.prefill_s for answer in answers}) == 2


def test_points_over_a_clip_stand_on_frames_of_their_own(engine):
    query, clip = parse_query("count[clip]: mugs"), make_clip(4)
    text = (
        'Counting the <points coords="0.0 1 100 200 2 300 400;1.5 3 500 600">mugs</points> '
        "shows a total of 3."
    )
    taught = Taught(engine, skills=tuple(SKILLS))
    num_prompt_tokens = Grounder(taught).answer(clip, query).timing.num_prompt_tokens
    # Constrained: the grammar knows such an answer.
    grounder = Grounder(Spelling(taught, text, num_prompt_tokens), constrained=True)
    for _ in range(2):
        answer = grounder.answer(clip, query, max_new_tokens=200)
        assert answer.text == text
        assert [(p.object_id, p.time_s) for p in answer.points] == [(1, 0.0), (2, 0.0), (3, 1.5)]
        assert (answer.count, answer.problems, answer.degenerate) == (3, (), False)
    # The second time it was foreseen.
    assert answer.timing.num_passes == 1
    assert [point_stamp_ns(answer, p) for p in answer.points] == [0, 0, 3 * SECOND // 2]


def test_a_live_camera_is_sampled_by_the_kind_of_question(engine):
    facts = replace(
        engine.manifest.sampling, point_fps=2.0, track_fps=4.0, max_frames=9, max_clip_s=2.0
    )
    grounder = Grounder(Taught(engine, sampling=facts))
    buffer = ClipBuffer(10.0, 200)
    for index in range(61):
        buffer.push(make_frame(index / 10))
    assert [f.stamp_ns / SECOND for f in grounder.clip_for(buffer, parse_query("count: mugs"))] == [
        6.0
    ]
    track = grounder.clip_for(buffer, parse_query("Track the lemon"))
    assert len(track) == 9  # 4.0 to 6.0 s at 4 fps
    assert track.stamps_ns[-1] == 6 * SECOND
    for question in ("ask: What happens?", "caption: long", "count[clip]: mugs", "point[clip]: it"):
        clip = grounder.clip_for(buffer, parse_query(question))
        assert [frame.stamp_ns / SECOND for frame in clip] == [4.0, 4.5, 5.0, 5.5, 6.0]  # at 2 fps
    crops = grounder.clip_for(buffer, parse_query("ask[crops]: What happens?"))
    assert crops.stamps_ns == (6 * SECOND,)


def test_a_clip_that_is_longer_than_the_model_can_read_is_refused(engine):
    text = replace(engine.manifest.text, max_positions=60)
    grounder = Grounder(Taught(engine, text=text))
    with pytest.raises(QueryError, match="ask about fewer frames"):
        grounder.answer(make_clip(2), parse_query("Track the lemon"))


@pytest.mark.parametrize(
    ("text", "trouble"),
    [
        # Molmo2 paper, appendix H: points in an even row that does not end.
        (
            '<points coords="0.0 '
            + " ".join(f"{n} {100 + 10 * n} 500" for n in range(1, 80))
            + '">mugs</points>',
            "stand in an even row",
        ),
        (
            '<points coords="0.0 1 100 100;'
            + ";".join(f"{n}.0 {n} 100 {100 + 7 * n}" for n in range(2, 60))
            + '">mugs</points>',
            "outside the clip",
        ),
    ],
)
def test_an_answer_that_lost_the_thread_is_stopped_flagged_and_counted(engine, text, trouble):
    query, clip = parse_query("point: all mugs"), make_clip(1)
    num_prompt_tokens = Grounder(engine).answer(clip, query).timing.num_prompt_tokens
    grounder = Grounder(Spelling(engine, text, num_prompt_tokens), drafted=False)
    answer = grounder.answer(clip, query)
    assert any(trouble in problem for problem in answer.problems)
    assert "stopped, as the model had lost the thread before its end" in answer.problems
    assert answer.degenerate
    assert grounder.num_degenerate == 1
    assert text.startswith(answer.text)
    assert len(answer.text) < len(text) / 2


def test_each_answer_of_a_batch_has_a_limit_of_its_own(engine):
    endless = replace(engine.manifest.tokens, eos=("<|endoftext|>",))  # which it never writes
    grounder = Grounder(Taught(engine, skills=tuple(SKILLS), tokens=endless), drafted=False)
    queries = [parse_query(f"{kind}: what it shows") for kind in ("ask", "caption")]
    ended, steps_after = [], []

    def cancel(_):
        steps_after.extend(ended)
        return len(steps_after) > 3

    short, long = grounder.answer_all(make_clip(1), queries, on_final=ended.append, cancel=cancel)
    assert short.timing.num_answer_tokens == ASK_TOKENS
    assert short.problems == ()
    assert ASK_TOKENS < long.timing.num_answer_tokens < CAPTION_TOKENS
    assert long.problems == ("cancelled before its end",)


def test_an_answer_that_leaves_the_grammar_for_good_is_stopped_flagged_and_counted(engine):
    """On clips longer than it was trained on, the nano writes numbers without end."""
    golden = Golden.load(engine.folder / engine.manifest.golden.file)
    pictures = [golden.frames[index % len(golden.frames)].copy() for index in range(32)]
    stamped = enumerate(pictures)
    clip = Clip(tuple(Frame(image=image, stamp_ns=i * SECOND // 5) for i, image in stamped))
    grounder = Grounder(engine)
    answer = grounder.answer(clip, parse_query("track: remotes"))
    assert answer.degenerate
    assert grounder.num_degenerate == 1
    assert any("follows no grammar after" in problem for problem in answer.problems)
    assert "stopped, as the model had lost the thread before its end" in answer.problems
    assert answer.timing.num_answer_tokens < 2 * LOST_TOKENS
    # Another clip is answered as ever.
    slow = (Frame(image=pictures[i], stamp_ns=i * SECOND // 2) for i in range(4))
    short = grounder.answer(Clip(tuple(slow)), parse_query(golden.question))
    assert short.points
    assert not short.degenerate


@pytest.mark.parametrize("question", ["track: the lemon", "point: all mugs", "count: mugs"])
@pytest.mark.parametrize("text", ["I think it is over there.", '<tracks coords="7.5 9 12">', ""])
def test_a_constrained_answer_can_always_be_read(engine, question, text):
    query, clip = parse_query(question), make_clip()
    num_prompt_tokens = Grounder(engine).answer(clip, query).timing.num_prompt_tokens
    spelling = Spelling(engine, text, num_prompt_tokens)
    free = Grounder(spelling).answer(clip, query, max_new_tokens=300)
    assert free.text.startswith(text)
    answer = Grounder(spelling, constrained=True).answer(clip, query, max_new_tokens=300)
    assert answer.problems == ()
    assert not answer.truncated
    assert answer.none or answer.points


def test_a_short_answer_is_handed_on_before_a_longer_one_of_its_batch_is_done(engine):
    queries = [parse_query(q) for q in ("track: the lemon", "track: the mugs")]
    clip, seen = make_clip(), []
    spelt = '<tracks coords="0.0 1 100 200;0.5 1 110 210">lemon</tracks>'
    num_prompt_tokens = Grounder(engine).answer(clip, queries[0]).timing.num_prompt_tokens
    grounder = Grounder(Spelling(engine, spelt, num_prompt_tokens), drafted=False)
    answers = grounder.answer_all(
        clip,
        queries,
        on_partial=lambda answer: seen.append(("partial", answer.query.name)),
        on_final=lambda answer: seen.append(("final", answer.query.name)),
        max_new_tokens=120,
    )
    assert sorted(event for event in seen if event[0] == "final") == [
        ("final", "lemon"),
        ("final", "mugs"),
    ]
    assert [a.query.name for a in answers] == ["lemon", "mugs"]
    lengths = {a.query.name: a.timing.num_answer_tokens for a in answers}
    assert [name for what, name in seen if what == "final"] == sorted(lengths, key=lengths.get)


def test_a_track_from_a_point_is_foreseen_after_that_point(engine):
    clip = make_clip(4)
    query = parse_query("track[from 0.5 0.5 at 0.5]: the lemon")
    drafting, plain = Grounder(engine), Grounder(engine, drafted=False)
    for _ in range(2):
        ours, theirs = (g.answer(clip, query) for g in (drafting, plain))
        assert ours.text == theirs.text
    assert ours.timing.num_passes == 1


def test_a_long_answer_that_makes_sense_is_not_stopped(engine):
    query, clip = parse_query("point: all mugs"), make_clip(1)
    rng = np.random.default_rng(0)
    places = " ".join(f"{n} {x} {y}" for n, (x, y) in enumerate(rng.integers(100, 999, (40, 2)), 1))
    text = f'<points coords="0.0 {places}">mugs</points>'
    num_prompt_tokens = Grounder(engine).answer(clip, query).timing.num_prompt_tokens
    answer = Grounder(Spelling(engine, text, num_prompt_tokens)).answer(clip, query)
    assert answer.text.startswith(text)
    assert len(answer.points) == 40
    assert not answer.degenerate


def test_a_sliding_window_is_answered_in_few_passes_and_as_without_drafts(engine):
    source = TableSource(seed=2, rate_hz=10.0)
    queries = [parse_query(q) for q in ("track: the lemon", "point: all mugs", "count: mugs")]
    drafting, plain = Grounder(engine), Grounder(engine, drafted=False)
    window = ClipBuffer(duration_s=4.0, max_frames=100)
    spent = []
    for number in range(48):
        window.push(source.read())
        for query in queries if number >= 24 else ():
            clip = drafting.clip_for(window, query)
            ours, theirs = (g.answer(clip, query) for g in (drafting, plain))
            assert ours.text == theirs.text
            np.testing.assert_allclose(
                [p.confidence for p in ours.points],
                [p.confidence for p in theirs.points],
                atol=1e-4,
            )
            assert theirs.timing.num_passes == theirs.timing.num_answer_tokens + 1
            spent.append((ours.timing.num_passes, theirs.timing.num_passes))
    passes, plain_passes = np.sum(spent, axis=0)
    assert passes * 8 < plain_passes


def test_an_engine_goes_with_the_last_user_of_its_grounder():
    """By counting alone: a node does not let the collector look at what it began with."""
    engine = load_engine(threads=1)
    grounder = Grounder(engine)
    grounder.answer(Clip(frames=(make_frame(0.0),)), parse_query("point: the red mug"))
    left = weakref.ref(grounder), weakref.ref(engine)
    gc.disable()
    try:
        del grounder, engine
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()
