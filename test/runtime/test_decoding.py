"""Greedy decoding: several questions at once, drafts, endings, limits, streaming, cancelling."""

import copy
from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.layout import clip_prefix, question_suffix, suffix_bias
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Draft, Guide, generate, prefill
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.features import FeatureCache

QUESTIONS = ("Point to the mug.", "How many red mugs are there?", "Track the yellow lemon.")


@pytest.fixture(scope="module")
def endless(nano):
    """The shipped engine, ending an answer at a token that it cannot write."""
    return ending_at(nano, nano.manifest.text.vocab_size)


@pytest.fixture(scope="module")
def prompt(nano, clip):
    cache = FeatureCache(nano)
    prefix = clip_prefix(PromptTokenizer(NANO), [0.0, 0.5, 1.0], cache.tokens_per_frame)
    return prefix, cache.frames(clip)


@pytest.fixture(scope="module")
def prefix(nano, prompt):
    return prefill(nano, *prompt)


@pytest.fixture(scope="module")
def suffixes():
    tokenizer = PromptTokenizer(NANO)
    return [question_suffix(tokenizer, text).ids for text in QUESTIONS]


def ending_at(engine, *ids):
    """The same engine with other ending tokens."""
    names = {f"end {number}": number for number in ids}
    tokens = engine.manifest.tokens
    tokens = replace(tokens, eos=tuple(names), ids={**tokens.ids, **names})
    other = copy.copy(engine)
    other.manifest = replace(engine.manifest, tokens=tokens)
    return other


def test_every_token_is_the_likeliest_and_carries_its_probability(endless, prefix, suffixes):
    (answer,) = generate(endless, prefix, suffixes[:1], max_new_tokens=5)
    ids = np.concatenate([suffixes[0], answer.ids])
    num_new, first = len(ids), len(suffixes[0]) - 1
    logits, _ = endless.forward(
        ids[None],
        prefix.num_tokens + np.arange(num_new)[None],
        suffix_bias(num_new, prefix.num_tokens)[None, None],
        prefix.kv,
        logit_indices_L=np.arange(first, num_new - 1),
    )
    shares = np.exp(logits[0] - logits[0].max(-1, keepdims=True))
    shares /= shares.sum(-1, keepdims=True)
    assert answer.ids == tuple(shares.argmax(-1))
    np.testing.assert_allclose(answer.probabilities, shares.max(-1), rtol=1e-3)


def test_answers_in_one_batch_equal_answers_alone(endless, prefix, suffixes):
    assert len({len(suffix) for suffix in suffixes}) > 1
    together = generate(endless, prefix, suffixes, max_new_tokens=12)
    for suffix, answer in zip(suffixes, together, strict=True):
        (alone,) = generate(endless, prefix, [suffix], max_new_tokens=12)
        assert alone.ids == answer.ids
        np.testing.assert_allclose(alone.probabilities, answer.probabilities, rtol=1e-3)


def test_limit_truncates_and_says_so(endless, prefix, suffixes):
    (answer,) = generate(endless, prefix, suffixes[:1], max_new_tokens=3)
    assert len(answer.ids) == 3
    assert answer.truncated
    assert not answer.cancelled


def test_each_answer_has_its_own_limit(endless, prefix, suffixes):
    plain = generate(endless, prefix, suffixes, max_new_tokens=9)
    limits = [2 + 3 * (row % 3) for row in range(len(suffixes))]
    assert len(set(limits)) > 1
    answers = generate(endless, prefix, suffixes, max_new_tokens=limits)
    for answer, before, limit in zip(answers, plain, limits, strict=True):
        assert answer.ids == before.ids[:limit]
        assert answer.truncated
    assert answers[0].num_passes == limits[0]


def test_ending_token_ends_its_own_answer_only(endless, prefix, suffixes):
    plain = generate(endless, prefix, suffixes, max_new_tokens=12)
    end = plain[0].ids[2]
    answers = generate(ending_at(endless, end), prefix, suffixes, max_new_tokens=12)
    for answer, before in zip(answers, plain, strict=True):
        stop = before.ids.index(end) if end in before.ids else 12
        assert answer.ids == before.ids[:stop]
        assert answer.truncated == (stop == 12)
    assert end not in answers[0].ids


def test_each_token_is_passed_on_as_it_is_written(endless, prefix, suffixes):
    seen = []
    answers = generate(
        endless,
        prefix,
        suffixes[:2],
        max_new_tokens=4,
        on_tokens=lambda *written: seen.append(written),
    )
    for question, answer in enumerate(answers):
        streamed = [
            pair
            for asked, tokens, shares, _ in seen
            if asked == question
            for pair in zip(tokens, shares, strict=True)
        ]
        assert tuple(token for token, _ in streamed) == answer.ids
        np.testing.assert_allclose([share for _, share in streamed], answer.probabilities)
    assert [question for question, *_ in seen] == [0, 1] * 4
    assert [is_last for *_, is_last in seen] == [False] * 6 + [True] * 2


def test_cancel_ends_one_answer_with_what_is_written_and_leaves_the_others(
    endless, prefix, suffixes
):
    def cancel(row):
        steps[row] += 1
        return row == 1 and steps[row] > 2

    steps = [0, 0, 0]
    whole = generate(endless, prefix, suffixes, max_new_tokens=9)
    answers = generate(endless, prefix, suffixes, max_new_tokens=9, cancel=cancel)
    assert [answer.cancelled for answer in answers] == [False, True, False]
    assert answers[1].ids == whole[1].ids[:2]
    assert not answers[1].truncated
    assert [answers[row].ids for row in (0, 2)] == [whole[row].ids for row in (0, 2)]


def test_cancel_is_not_asked_about_an_answer_that_has_come_to_its_end(nano, prefix, suffixes):
    ended = []

    def cancel(row):
        return bool(ended)  # from the moment at which the first answer is whole

    def on_tokens(row, tokens, shares, is_last):
        ended.extend([row] * is_last)

    whole = generate(nano, prefix, suffixes, max_new_tokens=200)
    answers = generate(
        nano, prefix, suffixes, max_new_tokens=len(whole[0].ids), on_tokens=on_tokens, cancel=cancel
    )
    assert ended
    for row, answer in enumerate(answers):
        assert answer.cancelled == (row not in ended)


def test_cancel_before_the_first_token_gives_empty_answers(nano, prefix, suffixes):
    (answer,) = generate(nano, prefix, suffixes[:1], max_new_tokens=9, cancel=lambda _: True)
    assert answer.ids == ()
    assert answer.probabilities.shape == (0,)
    assert answer.cancelled


def test_prefix_serves_again_after_an_answer(endless, prefix, suffixes):
    first = generate(endless, prefix, suffixes[:1], max_new_tokens=6)
    generate(endless, prefix, suffixes[1:], max_new_tokens=6)
    assert generate(endless, prefix, suffixes[:1], max_new_tokens=6)[0].ids == first[0].ids


def test_answer_stops_where_the_models_positions_end(endless, prefix, suffixes):
    room = 4
    text = replace(endless.manifest.text, max_positions=prefix.num_tokens + len(suffixes[0]) + room)
    small = copy.copy(endless)
    small.manifest = replace(endless.manifest, text=text)
    (answer,) = generate(small, prefix, suffixes[:1], max_new_tokens=50)
    assert len(answer.ids) == room
    assert answer.truncated


def test_clip_longer_than_the_positions_is_refused(nano, prompt):
    small = copy.copy(nano)
    small.manifest = replace(nano.manifest, text=replace(nano.manifest.text, max_positions=50))
    with pytest.raises(QueryError, match=r"prompt has \d+ tokens, .* room for 50 .* fewer frames"):
        prefill(small, *prompt)


def test_question_that_leaves_no_room_is_refused(nano, prefix, suffixes):
    small = copy.copy(nano)
    limit = prefix.num_tokens + len(suffixes[0])
    small.manifest = replace(nano.manifest, text=replace(nano.manifest.text, max_positions=limit))
    with pytest.raises(QueryError, match="ask about fewer frames"):
        generate(small, prefix, suffixes[:1], max_new_tokens=5)


@pytest.mark.parametrize("asked", [[], [np.zeros(0, np.int64)]])
def test_no_question_is_refused(nano, prefix, asked):
    with pytest.raises(QueryError, match="expected at least one"):
        generate(nano, prefix, asked, max_new_tokens=5)


def test_no_tokens_to_write_is_refused(nano, prefix, suffixes):
    with pytest.raises(QueryError, match="max_new_tokens is 0"):
        generate(nano, prefix, suffixes, max_new_tokens=0)
    with pytest.raises(QueryError, match="max_new_tokens is -1"):
        generate(nano, prefix, suffixes[:2], max_new_tokens=[3, -1])


def test_features_of_another_clip_are_refused(nano, prompt):
    prefix, features = prompt
    with pytest.raises(ValueError, match=r"\d+ features for \d+ visual tokens"):
        prefill(nano, prefix, features[:-1])


class Scripted:
    """Drafts what it is told to, and keeps what it learns."""

    def __init__(self, make):
        self.make = make
        self.learnt = []

    def draft(self, written):
        return self.make(list(written))

    def verified(self, written, draft, chosen):
        self.learnt.append((list(written), draft, list(chosen)))


def continuing(ids, noise=lambda tokens: tokens):
    """Drafts the rest of an answer known beforehand, changed by `noise`."""
    return Scripted(lambda written: Draft.line(noise(list(ids[len(written) :]))))


def with_and_without_drafts(engine, prefix, suffixes, max_new_tokens, noise=lambda tokens: tokens):
    """Plain answers, and answers that are drafted as these, changed by `noise`."""
    plain = generate(engine, prefix, suffixes, max_new_tokens=max_new_tokens)
    guides = [Guide(drafts=continuing(answer.ids, noise)) for answer in plain]
    drafted = generate(engine, prefix, suffixes, max_new_tokens=max_new_tokens, guides=guides)
    return plain, drafted


def test_a_right_draft_is_taken_over_in_one_pass(nano, prefix, suffixes):
    plain, drafted = with_and_without_drafts(nano, prefix, suffixes, 200)
    for before, after in zip(plain, drafted, strict=True):
        assert after.ids == before.ids
        assert not after.truncated
        np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-5)
        assert (after.num_passes, before.num_passes) == (1, len(before.ids) + 1)
        assert after.num_accepted == after.num_drafted == len(before.ids)


@pytest.mark.parametrize("seed", range(6))
def test_hostile_drafts_change_no_token(nano, prefix, suffixes, seed):
    rng = np.random.default_rng(seed)
    size = nano.manifest.text.vocab_size

    def spoilt(tokens):
        for place in rng.integers(0, len(tokens) + 1, 3):
            tokens[place : place + 1] = rng.integers(0, size, rng.integers(0, 3)).tolist()
        return tokens[: rng.integers(0, 40)]

    plain, drafted = with_and_without_drafts(nano, prefix, suffixes, 70, spoilt)
    for before, after in zip(plain, drafted, strict=True):
        assert after.ids == before.ids
        assert after.truncated == before.truncated
        np.testing.assert_allclose(after.probabilities, before.probabilities, atol=1e-5)
    assert sum(a.num_accepted for a in drafted) < sum(a.num_drafted for a in drafted)


class Bounded:
    """An engine whose cache is held to its bound, and which notes how full it was."""

    def __init__(self, engine, most_tokens):
        self._engine, self.most_tokens, self.fill = engine, most_tokens, []

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def forward(self, *inputs, **more):
        logits, kv = self._engine.forward(*inputs, **more)
        self.fill.append(kv.length)
        assert kv.length <= self.most_tokens
        return logits, kv


@pytest.mark.parametrize("room", [60, 75, 90, 105, 120, 180, 400])
def test_a_cache_without_room_for_all_answers_writes_the_same_ones(endless, prefix, suffixes, room):
    """Drafts are cut first; where even what is written has no room, answers wait for others."""
    rng = np.random.default_rng(room)
    size = endless.manifest.text.vocab_size

    def spoilt(tokens):
        place = rng.integers(0, len(tokens) + 1)
        return [*tokens[:place], *rng.integers(0, size, 12).tolist(), *tokens[place:]]

    longest = max(map(len, suffixes))
    plain = generate(endless, prefix, suffixes, max_new_tokens=60 - longest)
    bounded = Bounded(endless, prefix.num_tokens + room)
    guides = [Guide(drafts=continuing(answer.ids, spoilt)) for answer in plain]
    told = {row: [] for row in range(len(suffixes))}
    ended = []
    drafted = generate(
        bounded,
        prefix,
        suffixes,
        max_new_tokens=60 - longest,
        guides=guides,
        on_tokens=lambda row, tokens, shares, is_last: told[row].extend(tokens),
        on_end=lambda row, answer: ended.append(row),
    )
    assert [answer.ids for answer in drafted] == [answer.ids for answer in plain]
    assert [tuple(tokens) for tokens in told.values()] == [answer.ids for answer in plain]
    assert sorted(ended) == [0, 1, 2]
    if room <= 120:  # not even what is written of all three has room
        assert sum(map(len, suffixes)) + sum(len(answer.ids) for answer in plain) > room


def test_an_answer_ends_where_the_cache_does(endless, prefix, suffixes):
    room = len(suffixes[0]) + 7
    bounded = Bounded(endless, prefix.num_tokens + room)
    (answer,) = generate(bounded, prefix, suffixes[:1], max_new_tokens=50)
    assert (len(answer.ids), answer.truncated) == (7, True)


def test_what_nobody_took_of_drafts_leaves_the_cache(nano, prefix, suffixes):
    """Three answers of a few dozen tokens, each with two hundred wrong ones read ahead."""
    bounded = Bounded(nano, prefix.num_tokens + 900)
    wrong = Scripted(lambda written: Draft.line([7] * 60))
    guides = [Guide(drafts=wrong)] * 3
    answers = generate(bounded, prefix, suffixes, max_new_tokens=200, guides=guides)
    num_read = sum(len(ids) for ids in suffixes) + sum(len(answer.ids) for answer in answers)
    assert sum(answer.num_drafted for answer in answers) > 900
    assert max(bounded.fill) <= prefix.num_tokens + num_read + 3 * 60


def test_a_tree_is_followed_along_the_branch_that_the_model_takes(endless, prefix, suffixes):
    (plain,) = generate(endless, prefix, suffixes[2:], max_new_tokens=30)
    ids = plain.ids
    wrong = (ids[3] + 1) % endless.manifest.text.vocab_size
    # Two ways on after three tokens: the wrong one first, and both go on alike.
    tokens = (*ids[:3], wrong, *ids[4:8], *ids[3:8])
    parents = (-1, 0, 1, 2, 3, 4, 5, 6, 2, *range(8, 12))
    source = Scripted(lambda written: Draft() if written else Draft(tokens=tokens, parents=parents))
    (answer,) = generate(
        endless, prefix, suffixes[2:], max_new_tokens=30, guides=[Guide(drafts=source)]
    )
    assert answer.ids == ids
    assert (answer.num_drafted, answer.num_accepted) == (len(tokens), 8)
    assert answer.num_passes == len(ids) - 8
    np.testing.assert_allclose(answer.probabilities, plain.probabilities, atol=1e-5)


def test_the_source_learns_what_the_model_chose_after_every_drafted_token(
    endless, prefix, suffixes
):
    (plain,) = generate(endless, prefix, suffixes[:1], max_new_tokens=6)
    source = continuing(plain.ids[:4])
    generate(endless, prefix, suffixes[:1], max_new_tokens=6, guides=[Guide(drafts=source)])
    written, draft, chosen = source.learnt[0]
    assert (written, draft.tokens, tuple(chosen)) == ([], plain.ids[:4], plain.ids[:5])


def test_a_draft_is_cut_at_the_token_limit(endless, prefix, suffixes):
    (plain,) = generate(endless, prefix, suffixes[:1], max_new_tokens=9)
    guide = Guide(drafts=continuing([*plain.ids, *plain.ids]))
    (answer,) = generate(endless, prefix, suffixes[:1], max_new_tokens=9, guides=[guide])
    assert answer.ids == plain.ids
    assert answer.truncated
    assert answer.num_drafted == 8


class Only:
    """Allows given tokens alone, one after the other, then the ending one."""

    def __init__(self, ids, end, vocab_size):
        self.ids, self.end, self.vocab_size, self.place = list(ids), end, vocab_size, 0

    def accept(self, token_id):
        self.place += 1
        return True

    def _mask(self, place):
        mask = np.zeros(self.vocab_size, np.bool_)
        mask[self.ids[place] if place < len(self.ids) else self.end] = True
        return mask

    def legal(self):
        return self._mask(self.place)

    def forced(self):
        return tuple(self.ids[self.place :])

    def legal_tree(self, tokens, parents):
        assert list(parents) == list(range(-1, len(tokens) - 1))
        return np.array([self._mask(self.place + 1 + node) for node in range(len(tokens))])


def test_forced_tokens_are_read_ahead_and_the_model_still_has_the_say(nano, prefix, suffixes):
    (plain,) = generate(nano, prefix, suffixes[:1], max_new_tokens=200)
    size, (end,) = nano.manifest.text.vocab_size, nano.manifest.tokens.eos_ids
    wanted = [5, 6, 7]
    assert plain.ids[0] != wanted[0]
    answers = [
        generate(
            nano,
            prefix,
            suffixes[:1],
            max_new_tokens=200,
            guides=[
                Guide(
                    automaton=Only(wanted, end, max(size, end + 1)),
                    constrained=constrained,
                )
            ],
        )[0]
        for constrained in (False, True)
    ]
    assert answers[0].ids == plain.ids
    assert answers[0].num_accepted == 0
    assert list(answers[1].ids) == wanted
    assert not answers[1].truncated
    assert answers[1].num_passes == 1
