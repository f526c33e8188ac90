"""The answer grammar over the tokens of three families, for any answer, spelling and draft."""

import re
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from molmo2_ros.answers import grammar, language
from molmo2_ros.answers.grammar import AnswerGrammar
from molmo2_ros.answers.text import parse_answer
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.simulation.objects import CATEGORIES, OWN_COLOUR
from molmo2_ros.training.scenes import Sightings, clip_questions, still_questions

POINT, COUNT, TRACK = QueryKind.POINT, QueryKind.COUNT, QueryKind.TRACK
CLIP = ("0.0", "0.5", "1.0", "1.5", "10.0")
MUGS = '<points coords="0.0 1 250 500 2 510 1000;1.5 3 100 222">red mugs</points>'


@dataclass(frozen=True)
class Case:
    """An answer that Molmo2 could write."""

    kind: QueryKind
    stamps: tuple[str, ...]
    are_images: bool
    text: str

    def automaton(self, family):
        query = Query(name="it", kind=self.kind, words="the red mug")
        return family.grammar.automaton(query, self.stamps, self.are_images)


CHARACTERS = st.characters(exclude_characters='<>"', exclude_categories=("Cs", "M"))
LABELS = st.one_of(
    st.sampled_from(["red mug", "mugs", "cups etc.", "(old) mugs", "12 mugs", " ", "'s"]),
    st.text(CHARACTERS, min_size=1, max_size=30),
)
COORDINATES = st.one_of(st.integers(0, 1000), st.sampled_from([0, 100, 999, 1000]))


@st.composite
def cases(draw):
    kind = draw(st.sampled_from([POINT, COUNT, TRACK]))
    are_images = kind is not TRACK and draw(st.booleans())
    if are_images:
        stamps = tuple(str(number) for number in range(1, draw(st.integers(2, 14))))
    else:
        tenths = sorted(draw(st.sets(st.integers(0, 120), min_size=1, max_size=8)))
        stamps = tuple(f"{number / 10:.1f}" for number in tenths)
    phrases = ["There are none."] + ["No tracks available.", ""] * (kind is TRACK)
    if draw(st.integers(0, 9)) == 0:
        return Case(kind, stamps, are_images, draw(st.sampled_from(phrases)))
    named = draw(st.sets(st.integers(0, len(stamps) - 1), min_size=1))
    groups, num_ids, num_points = [], 0, 0
    for index in sorted(named):
        known = draw(st.sets(st.integers(1, num_ids))) if kind is TRACK and num_ids else set()
        num_new = draw(st.integers(0 if known else 1, 3))
        ids = [*sorted(known), *range(num_ids + 1, num_ids + num_new + 1)]
        num_ids += num_new
        num_points += len(ids)
        points = (f"{i} {draw(COORDINATES):03d} {draw(COORDINATES):03d}" for i in ids)
        groups.append(f"{stamps[index]} {' '.join(points)}")
    tag = "tracks" if kind is TRACK else "points"
    text = f'<{tag} coords="{";".join(groups)}">{draw(LABELS)}</{tag}>'
    if kind is COUNT and draw(st.booleans()):
        text = f"Counting the {text} shows a total of {num_points}."
    return Case(kind, stamps, are_images, text)


def check_accepted(case, family):
    automaton = case.automaton(family)
    for token in family.tokenizer.encode_text(case.text):
        legal = automaton.legal()
        assert legal[token], family.tokenizer.decode([token])
        assert not legal[family.eos] or automaton.state == case.automaton(family).state
        assert automaton.accept(token)
    assert np.flatnonzero(automaton.legal()).tolist() == [family.eos] or not case.text
    assert automaton.accept(family.eos)
    assert not automaton.legal().any()


@settings(max_examples=50)
@given(case=cases())
@example(case=Case(COUNT, CLIP, False, f"Counting the {MUGS} shows a total of 3."))
@example(case=Case(POINT, ("1", "12"), True, '<points coords="12 1 100 1000">(x).</points>'))
def test_an_answer_is_accepted_token_by_token_and_ends_where_it_is_whole(family, case):
    check_accepted(case, family)


@settings(max_examples=50)
@given(case=cases())
@example(case=Case(POINT, ("1", "12"), True, '<points coords="1 1 100 1000">(x).</points>'))
@example(case=Case(POINT, ("0.0",), False, '<points coords="0.0 1 100 100">.a.</points>'))
def test_forced_tokens_are_those_of_the_tokenizer(family, case):
    automaton = case.automaton(family)
    tokens = family.tokenizer.encode_text(case.text)
    for at, token in enumerate(tokens):
        forced = automaton.forced()
        assert list(forced) == tokens[at : at + len(forced)]
        automaton.accept(token)
    assert automaton.forced() == ()


@settings(max_examples=25)
@given(case=cases(), data=st.data())
def test_forced_tokens_are_legal_however_the_answer_was_spelt(family, case, data):
    automaton = case.automaton(family)
    written = case.text.encode()
    while written:
        forced = automaton.forced()
        run = b"".join(family.bytes_of[token] for token in forced)
        assert written.startswith(run)
        assert all(automaton.accept(token) for token in forced)
        automaton.rollback(len(forced))
        longest = data.draw(st.integers(1, 6))
        token = next(
            family.token_of[written[:length]]
            for length in range(longest, 0, -1)
            if written[:length] in family.token_of
        )
        assert automaton.legal()[token]
        assert automaton.accept(token)
        written = written[len(family.bytes_of[token]) :]
    assert automaton.legal()[family.eos]


@settings(max_examples=15)
@given(case=cases(), data=st.data())
@example(case=Case(COUNT, CLIP, False, f"Counting the {MUGS} shows a total of 3."), data=None)
def test_exactly_those_tokens_are_legal_that_are_accepted(family, case, data):
    automaton = case.automaton(family)
    tokens = family.tokenizer.encode_text(case.text)
    for token in tokens[: data and data.draw(st.integers(0, len(tokens)))]:
        if data is None:
            check_legal(automaton, family)
        automaton.accept(token)
    check_legal(automaton, family)


def check_legal(automaton, family):
    legal = automaton.legal()
    state = automaton.state
    for token in range(family.vocab_size):
        assert automaton.accept(token) == legal[token], token
        automaton.rollback(1)
        assert automaton.state == state


@pytest.mark.parametrize("length", [1, 200, 245, 253, 254, 255, 256])
def test_exactly_those_tokens_are_legal_in_a_label_that_fit_in_it(family, length):
    case = Case(COUNT, CLIP, False, "")
    automaton = case.automaton(family)
    for token in family.tokenizer.encode_text('Counting the <points coords="0.0 1 1'):
        automaton.accept(token)
    for token in family.tokenizer.encode_text('11 222">') + [family.token_of[b"!"]] * length:
        assert automaton.accept(token)

    check_legal(automaton, family)
    assert automaton.legal()[family.token_of[b"!"]] == (length < 256)
    if length == 256:
        text = family.tokenizer.decode(automaton.forced())
        assert text == "</points> shows a total of 1."


def written_points(text):
    groups = re.search(r'coords="([^"]*)"', text)[1].split(";")
    points = []
    for group in groups:
        stamp, *numbers = group.split(" ")
        points += [
            (float(stamp), int(i), int(x), int(y))
            for i, x, y in zip(numbers[::3], numbers[1::3], numbers[2::3], strict=True)
        ]
    return points


def check_read(text, case):
    """A constrained answer means what its grammar says, and the reader reads just that."""
    parsed = parse_answer(text)
    assert parsed.problems == ()
    assert not parsed.truncated
    if "coords" not in text:
        assert parsed.none or text == ""
        return
    points = written_points(text)
    read = [(p.stamp, p.object_id, round(1000 * p.x), round(1000 * p.y)) for p in parsed.points]
    assert read == points
    assert parsed.is_track == (case.kind is TRACK)
    stamps = [float(stamp) for stamp in case.stamps]
    seen = set()
    for (stamp, object_id, x, y), later in pairwise([*points, (1e9, 0, 0, 0)]):
        assert stamp in stamps
        assert max(x, y) <= 1000
        assert object_id <= len(seen) + 1
        assert case.kind is TRACK or object_id == len(seen) + 1
        assert later[0] > stamp or (later[0] == stamp and later[1] > object_id)
        seen.add(object_id)
    if text.startswith("Counting"):
        assert parsed.stated_count == len(points)


@settings(max_examples=25)
@given(case=cases(), seed=st.integers(0, 10**6))
def test_any_walk_over_legal_tokens_ends_and_is_read(family, case, seed):
    rng = np.random.default_rng(seed)
    automaton = case.automaton(family)
    tokens = []
    while family.eos not in tokens:
        tokens.append(int(rng.choice(np.flatnonzero(automaton.legal()))))
        assert automaton.accept(tokens[-1])
        assert len(tokens) < 10_000

    check_read(family.tokenizer.decode(tokens), case)


@pytest.mark.parametrize("kind", [POINT, COUNT, TRACK])
@pytest.mark.parametrize("mark", [b" ", b";"])
def test_a_model_that_never_closes_anything_is_made_to_end(family, kind, mark, monkeypatch):
    """It writes points, or groups, and then its label for ever, as long as it may."""
    monkeypatch.setattr(language, "MAX_POINTS", 12)
    monkeypatch.setattr(language, "MAX_TRACK_POINTS", 20)
    limited = AnswerGrammar(family.tokenizer, family.vocab_size, frozenset({family.eos}))
    case = Case(kind, CLIP, False, "")
    automaton = limited.automaton(Query(name="it", kind=kind, words="mug"), CLIP)
    tokens = [family.token_of[b"<"]]
    automaton.accept(tokens[0])
    while family.eos not in tokens:
        legal = [family.token_of[mark]] if automaton.legal()[family.token_of[mark]] else []
        legal += np.flatnonzero(automaton.legal()).tolist()
        closing = re.compile(rb'["<]')
        tokens.append(next((t for t in legal if not closing.search(family.bytes_of[t])), legal[0]))
        assert automaton.accept(tokens[-1])
        assert len(tokens) < 1000

    text = family.tokenizer.decode(tokens)
    check_read(text, case)
    assert len(written_points(text)) == (20 if kind is TRACK else 12)
    assert len(text) > 256


@settings(max_examples=30)
@given(case=cases(), data=st.data())
def test_rollback_returns_to_the_state_before(family, case, data):
    automaton = case.automaton(family)
    states = [automaton.state]
    for token in family.tokenizer.encode_text(case.text):
        if data.draw(st.integers(0, 5)) == 0:  # a wrong token, then the right one
            automaton.accept(data.draw(st.integers(0, family.vocab_size - 1)))
            automaton.rollback(1)
        automaton.accept(token)
        states.append(automaton.state)
    forced = automaton.forced()
    num_tokens = data.draw(st.integers(0, len(states) - 1))
    before = len(states) - 1 - num_tokens
    automaton.rollback(num_tokens)

    assert automaton.state == states[before]
    assert hash(automaton.state) == hash(states[before])
    fresh = case.automaton(family)
    tokens = family.tokenizer.encode_text(case.text)
    assert all(fresh.accept(token) for token in tokens[:before])
    assert np.array_equal(fresh.legal(), automaton.legal())
    assert fresh.forced() == automaton.forced()
    assert all(automaton.accept(token) for token in tokens[before:])
    assert automaton.forced() == forced


def test_no_more_is_rolled_back_than_was_accepted(family):
    automaton = Case(POINT, CLIP, False, "").automaton(family)
    automaton.accept(family.token_of[b"<"])
    automaton.accept(family.token_of[b"p"])
    automaton.rollback(1)

    with pytest.raises(ValueError, match="2 tokens to take back, 1 were taken"):
        automaton.rollback(2)


@settings(max_examples=60)
@given(case=cases(), data=st.data())
def test_legal_tree_equals_stepping(family, case, data):
    automaton = case.automaton(family)
    tokens = family.tokenizer.encode_text(case.text)
    start = data.draw(st.integers(0, len(tokens)))
    for token in tokens[:start]:
        automaton.accept(token)
    state = automaton.state
    # The answer's own next tokens, with any tokens hung on any of them.
    num_line = min(len(tokens) - start, 6)
    draft, parents = tokens[start : start + num_line], list(range(-1, num_line - 1))
    for _ in range(data.draw(st.integers(0, 6))):
        parents.append(data.draw(st.integers(-1, len(draft) - 1)))
        draft.append(data.draw(st.integers(0, family.vocab_size - 1)))

    tree = automaton.legal_tree(draft, parents)

    assert tree.shape == (len(draft), family.vocab_size)
    assert automaton.state == state
    for node, row in enumerate(tree):
        path = []
        while node >= 0:
            path.insert(0, draft[node])
            node = parents[node]
        for token in path:
            automaton.accept(token)
        assert np.array_equal(row, automaton.legal())
        automaton.rollback(len(path))


def test_an_empty_draft_has_no_rows(family):
    automaton = Case(POINT, CLIP, False, "").automaton(family)

    assert automaton.legal_tree([], []).shape == (0, family.vocab_size)


# The caret stands over the first byte that is wrong; the token that holds it is refused.
@pytest.mark.parametrize(
    ("kind", "marked"),
    [
        (POINT, '<points coords="0.0 1 111 222;0.^6 2 111 222">mug</points>'),
        (POINT, '<points coords="0.0 1 111 222;1^2.0 2 111 222">mug</points>'),
        (POINT, '<points coords="1.0 1 111 222;^0.5 2 111 222">mug</points>'),
        (POINT, '<points coords="0.0 1 111 222 ^3 111 222">mug</points>'),
        (TRACK, '<tracks coords="0.0 1 111 222 2 111 222;0.5 2 111 222 ^1 111 222">mug</tracks>'),
        (TRACK, '<tracks coords="0.0 1 111 222;0.5 ^3 111 222">mug</tracks>'),
        (POINT, '<points coords="0.0 1 123^4 222">mug</points>'),
        (POINT, '<points coords="0.0 1 100^2 222">mug</points>'),
        (POINT, '<points coords="0.0 1 12^ 222">mug</points>'),
        (POINT, '<points coords="0.0 1 111 222">^</points>'),
        (COUNT, 'Counting the <points coords="0.0 1 111 222">m</points> shows a total of ^2.'),
        (COUNT, "There are ^2."),
        (COUNT, "^7"),
        (POINT, "^I see none."),
    ],
)
def test_a_wrong_answer_is_refused_at_the_token_that_holds_its_first_wrong_byte(
    family, kind, marked
):
    wrong_at = marked.index("^")
    text = marked.replace("^", "")
    automaton = Case(kind, CLIP, False, text).automaton(family)
    tokens = family.tokenizer.encode_text(text)
    ends = list(accumulate(len(family.bytes_of[token]) for token in tokens))
    refused = next(index for index, end in enumerate(ends) if end > wrong_at)

    assert all(automaton.accept(token) for token in tokens[:refused])
    assert not automaton.legal()[tokens[refused]]
    assert not automaton.accept(tokens[refused])
    # From here on it follows nothing, until that token is taken back.
    assert automaton.legal().all()
    assert automaton.forced() == ()
    assert automaton.accept(tokens[0])
    automaton.rollback(2)
    assert not automaton.legal()[tokens[refused]]


def test_control_tokens_are_never_legal_inside_an_answer(family):
    automaton = Case(TRACK, CLIP, False, "").automaton(family)
    controls = sorted(i for i in family.tokenizer.control_ids if i < family.vocab_size)
    allowed = []
    for token in family.tokenizer.encode_text('<tracks coords="0.0 1 111 222">mug</tracks>'):
        allowed.append(np.flatnonzero(automaton.legal()[controls]).tolist())
        automaton.accept(token)

    assert [controls[i] for i in allowed[0]] == [family.eos]  # a track's answer may be empty
    assert not any(allowed[1:])
    assert not automaton.accept(family.tokenizer.ids.im_patch)  # beyond what can be written


def test_a_question_in_words_has_no_grammar(family):
    query = Query(name="it", kind=QueryKind.ASK, words="Is the drawer open?")
    automaton = family.grammar.automaton(query, CLIP)

    assert automaton.legal().all()
    assert automaton.legal().shape == (family.vocab_size,)
    assert automaton.forced() == ()
    assert automaton.accept(family.eos)
    assert automaton.legal_tree([family.eos, 300], [-1, 0]).all()
    automaton.rollback(1)
    assert automaton.legal().all()


@pytest.mark.parametrize(
    ("case", "start", "forced"),
    [
        # Everything up to the first coordinate, where the clip has one frame.
        (Case(COUNT, ("0.0",), False, ""), "Counting", ' the <points coords="0.0 1 '),
        (Case(POINT, ("0.0",), False, ""), '<points coords="', "0.0 1 "),
        (Case(POINT, CLIP, False, ""), '<points coords="0.0 1 111', " "),
        (Case(POINT, CLIP, False, ""), '<points coords="1.5 1 111 222;', "10.0 2 "),
        (Case(TRACK, CLIP, False, ""), "No", " tracks available."),
        # An image's number that another one continues: with digits in groups, 1 and 12 are tokens.
        (Case(POINT, ("1", "12"), True, ""), '<points coords="', {"olmo": "", "": "1"}),
        (Case(POINT, ("12", "13"), True, ""), '<points coords="', {"olmo": "", "": "1"}),
        # `>` alone would be `>.` where the label starts so.
        (Case(POINT, ("0.0",), False, ""), '<points coords="0.0 1 111 222"', ""),
    ],
)
def test_forced_runs_leave_out_what_could_merge_with_the_next_choice(family, case, start, forced):
    automaton = case.automaton(family)
    for token in family.tokenizer.encode_text(start):
        assert automaton.accept(token)
    if isinstance(forced, dict):
        forced = forced.get(family.name, forced[""])

    assert family.tokenizer.decode(automaton.forced()) == forced


def accept_spelt(automaton, family, *tokens):
    for token in tokens:
        assert automaton.accept(family.token_of[token.encode()])
    return [family.tokenizer.decode([token]) for token in automaton.forced()]


def test_a_forced_run_is_spelt_as_its_place_in_the_answer_demands(family_with_merges):
    # On its own the run `/points>` would start with the piece `/points`, and so with `/p`. Behind
    # `<` the pieces are `</` and `points`.
    family = family_with_merges(("/", "p"), ("o", "i"))
    automaton = Case(POINT, ("0.0",), False, "").automaton(family)

    forced = accept_spelt(automaton, family, *'<points coords="0.0 1 111 222">mug<')
    assert forced == ["/", "p", "oi", "n", "t", "s", ">"]


def test_a_forced_run_behind_a_spelling_of_the_models_own_is_spelt_as_it_stands(
    family_with_merges,
):
    # The tokenizer would have written `<p`, so that none of its tokens starts where the run does.
    family = family_with_merges(("<", "p"), ("o", "i"))
    automaton = Case(POINT, CLIP, False, "").automaton(family)

    forced = accept_spelt(automaton, family, "<")
    assert forced == ["p", "oi", *'nts coords="']
    automaton.rollback(1)
    forced = accept_spelt(automaton, family, "<p")
    assert forced == ["oi", *'nts coords="']


def test_legal_tokens_are_found_however_finely_the_vocabulary_is_divided(family, monkeypatch):
    monkeypatch.setattr(grammar, "_FEW", 1)
    fine = replace(family, grammar=AnswerGrammar(family.tokenizer, family.vocab_size, frozenset()))
    case = Case(COUNT, CLIP, False, f"Counting the {MUGS} shows a total of 3.")
    automata = case.automaton(family), case.automaton(fine)
    for token in family.tokenizer.encode_text(case.text):
        expected, found = (automaton.legal() for automaton in automata)
        assert np.array_equal(expected, found)
        assert [automaton.accept(token) for automaton in automata] == [True, True]


def test_what_is_kept_is_bounded_and_changes_nothing(family, monkeypatch):
    monkeypatch.setattr(grammar, "_MAX_LANGUAGES", 2)
    monkeypatch.setattr(grammar, "_MAX_STATES", 3)
    small = AnswerGrammar(family.tokenizer, family.vocab_size, frozenset({family.eos}))
    bounded = replace(family, grammar=small)
    text = f"Counting the {MUGS} shows a total of 3."
    for stamps in (CLIP, CLIP[:4], (*CLIP[:4], "9.0"), CLIP):
        case = Case(COUNT, stamps, False, text)
        automata = case.automaton(family), case.automaton(bounded)
        for token in family.tokenizer.encode_text(text):
            assert np.array_equal(*(automaton.legal() for automaton in automata))
            assert automata[0].forced() == automata[1].forced()
            assert all(automaton.accept(token) for automaton in automata)
        assert len(small._languages) <= 2
        assert list(small._languages)[-1][1] == stamps  # the one used last stays
        assert all(len(kept._legal) <= 3 >= len(kept._runs) for kept in small._languages.values())


def test_a_long_label_that_was_asked_for_may_be_repeated(family):
    words = "the mug " + "beside the other mug " * 40
    query = Query(name="it", kind=POINT, words=words)
    automaton = family.grammar.automaton(query, CLIP)
    text = f'<points coords="0.0 1 111 222">{words[4:].strip()}</points>'

    assert all(automaton.accept(token) for token in family.tokenizer.encode_text(text))


def test_an_ending_token_that_cannot_be_written_is_refused(family):
    with pytest.raises(ValueError, match=r"ending tokens \[9999\] cannot all be written"):
        AnswerGrammar(family.tokenizer, family.vocab_size, frozenset({9999}))


def random_sightings(rng, num_frames):
    """Objects of a few kinds, here and there, some hidden in some frames."""
    num_objects = int(rng.integers(2, 9))
    kinds = rng.integers(0, len(CATEGORIES), 4)
    category = rng.choice(kinds, num_objects)
    colour = [
        int(rng.choice(CATEGORIES[c].colours)) if CATEGORIES[c].colours else OWN_COLOUR
        for c in category
    ]
    state = rng.choice([0, 1, 2, 2, 2], (num_frames, num_objects))
    return Sightings(
        objects=np.stack([category, colour], 1),
        area=200 * state,
        centre=rng.random((num_frames, num_objects, 2)),
        state=state,
        shown=state > 0,
    )


@pytest.mark.parametrize("seed", range(4))
def test_all_answers_that_the_nano_is_trained_on_are_legal(families, seed):
    rng = np.random.default_rng(seed)
    kinds = {"point": POINT, "point_all": POINT, "count": COUNT, "track": TRACK, "seed": TRACK}
    asked = set()
    for _ in range(40):
        num_frames = int(rng.integers(2, 9))
        stamps = tuple(f"{0.5 * index:.1f}" for index in range(num_frames))
        questions = clip_questions(random_sightings(rng, num_frames), list(map(float, stamps)), rng)
        for question in questions + still_questions(random_sightings(rng, 1), rng):
            asked.add(question.kind)
            shown = stamps if kinds[question.kind] is TRACK else ("0.0",)
            check_accepted(
                Case(kinds[question.kind], shown, False, question.answer), families["nano"]
            )
    assert asked == set(kinds)
