import numpy as np
import pytest
import torch

from molmo2_ros.simulation.objects import OWN_COLOUR
from molmo2_ros.training.nano.losses import DenseHeads, TextReader, link_labels
from molmo2_ros.training.nano.model import (
    ModelConfig,
    build_model,
    encode_frames,
    pooling_windows,
    to_patches,
)
from molmo2_ros.training.nano.tokenizer import CHAT_TOKENS, VISUAL_TOKENS, train_nano_tokenizer
from molmo2_ros.training.nano.trees import TreeWriter, padded_mask
from molmo2_ros.training.recipe.messages import IGNORED
from molmo2_ros.training.scenes import clip_questions, locate, track_question

STAMPS = (0.0, 0.5, 1.2)


@pytest.fixture(scope="module")
def tokenizer():
    return train_nano_tokenizer(576)


@pytest.fixture(scope="module")
def model(tokenizer):
    torch.manual_seed(0)
    return build_model(ModelConfig(vocab_size=576), tokenizer).eval()


@pytest.fixture
def example(make_clip, make_thing):
    objects = [make_thing("mug", "blue"), make_thing("mug", "red"), make_thing("lemon")]
    left, right, low = (20, 60, 40, 80), (120, 60, 140, 80), (60, 130, 80, 150)
    clip = make_clip(objects, [[right, left, low], [right, None, low], [right, left, None]])
    questions = clip_questions(locate(clip), STAMPS, np.random.default_rng(3))
    assert len(questions) >= 4
    return clip, questions


def read(model, writer, clip, questions, mask=None):
    """Logits of every answer token, question by question."""
    config = ModelConfig(vocab_size=576)
    features, _ = encode_frames(
        model, to_patches(torch.from_numpy(clip.frames), 14), pooling_windows(config)
    )
    tree = writer.write(STAMPS, questions)
    batch = writer.collate([tree], len(STAMPS))
    seen = batch.mask_B1SS() if mask is None else mask(batch.mask_B1SS())
    with torch.no_grad():
        hidden = TextReader(model).hidden_states(batch, features.reshape(1, -1, 128), seen)
        logits = model.lm_head(hidden)[0]
    answered = [i for i, label in enumerate(tree.labels) if label != IGNORED]
    groups = {}
    for i in answered:
        groups.setdefault(tree.branch[i], []).append(logits[i - 1])
    return [torch.stack(group) for group in groups.values()]


def test_a_packed_branch_equals_the_question_asked_alone(model, tokenizer, example):
    clip, questions = example
    writer = TreeWriter(tokenizer, 6)
    packed = read(model, writer, clip, questions)
    alone = [read(model, writer, clip, [q])[0] for q in questions]
    for together, single in zip(packed, alone, strict=True):
        assert torch.allclose(together, single, atol=1e-4)


def test_packing_under_a_causal_mask_is_noticed(model, tokenizer, example):
    clip, questions = example
    writer = TreeWriter(tokenizer, 6)
    packed = read(model, writer, clip, questions, mask=lambda m: torch.ones_like(m).tril())
    alone = [read(model, writer, clip, [q])[0] for q in questions]
    assert not torch.allclose(packed[-1], alone[-1], atol=1e-2)


def test_unrestarted_positions_are_noticed(model, tokenizer, example, monkeypatch):
    clip, questions = example
    writer = TreeWriter(tokenizer, 6)
    alone = read(model, writer, clip, questions[-1:])[0]
    write = writer.write

    def run_on(stamps, asked):
        tree = write(stamps, asked)
        tree.positions = list(range(len(tree.ids)))
        return tree

    monkeypatch.setattr(writer, "write", run_on)
    assert not torch.allclose(read(model, writer, clip, questions)[-1], alone, atol=1e-2)


def test_mask_shows_prefix_and_own_branch_and_all_visual_tokens():
    branch = torch.tensor([[0, 0, 0, 1, 1, 2, -1]])
    visual = torch.tensor([False, True, True, False, False, False, False])
    mask = padded_mask(branch, visual)[0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],  # a visual token sees the visual token after it
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 1, 0, 0],
        [1, 1, 1, 0, 0, 1, 0],  # the second branch does not see the first
        [1, 1, 1, 0, 0, 0, 1],  # padding sees itself: no empty row
    ]


def test_looks_point_at_the_tokens_that_hold_the_points(tokenizer, example):
    clip, questions = example
    writer = TreeWriter(tokenizer, 6)
    for question in questions:
        tree = writer.write(STAMPS, [question])
        tokens = [tokenizer.id_to_token(i) for i in tree.ids]
        assert len(tree.digit_looks) == 4 * len(question.targets)
        for look in tree.digit_looks:
            assert tokens[look.position + 1].isdigit()
            assert all(tokens[key] == "<im_patch>" for key in look.keys)
        last = tree.next_looks[-1]
        assert tokens[last.keys[0]] == "<|im_end|>"  # no more: look at BOS
        keys = [look.keys[0] for look in tree.digit_looks[::4]]
        side, first = 6, [i for i, t in enumerate(tokens) if t == "<frame_start>"]
        expected = [
            first[t.frame] + 1 + int(t.y * side) * side + int(t.x * side) for t in question.targets
        ]
        assert keys == expected


def test_back_looks_find_the_same_digit_of_the_same_object(tokenizer, make_clip, make_thing):
    objects = [make_thing("mug", "blue"), make_thing("mug", "red")]
    left, right = (20, 60, 40, 80), (120, 60, 140, 80)
    clip = make_clip(objects, [[right, left], [left, None], [left, right]])
    question = track_question(locate(clip), STAMPS, objects[0].category, OWN_COLOUR, None)
    assert question.answer == (
        '<tracks coords="0.0 1 180 420 2 770 420;0.5 2 180 420;1.2 1 770 420 2 180 420">'
        "mugs</tracks>"
    )
    tree = TreeWriter(tokenizer, 6).write(STAMPS, [question])
    texts = [tokenizer.id_to_token(i) for i in tree.ids]
    runs = [
        i for i in range(len(texts) - 2) if all(t.isdigit() for t in texts[i : i + 3])
    ]  # x and y of five points: 1 and 2; 2; 1 and 2
    again, before = runs[4:], [runs[2], runs[3], runs[0], runs[1], runs[4], runs[5]]
    wanted = [
        pair
        for run, last in zip(again, before, strict=True)
        for pair in ((run - 1, last), (run, last + 1))
    ]
    assert [(look.position, *look.keys) for look in tree.back_looks] == wanted


def test_a_track_from_a_point_looks_back_at_the_point_that_was_given(
    tokenizer, make_clip, make_thing
):
    lemon = make_thing("lemon")
    clip = make_clip([lemon], [[(20, 60, 40, 80)], [(60, 60, 80, 80)], [(90, 60, 110, 80)]])
    question = track_question(
        locate(clip), STAMPS, lemon.category, OWN_COLOUR, None, from_point=True
    )
    tree = TreeWriter(tokenizer, 6).write(STAMPS, [question])
    texts = [tokenizer.id_to_token(i) for i in tree.ids]
    keys = [look.keys[0] for look in tree.back_looks[:4]]
    assert "".join(texts[keys[0] : keys[0] + 3]) == "179"  # 30 of 168 pixels, as clicked
    assert keys[1] == keys[0] + 1
    assert "".join(texts[keys[2] : keys[2] + 3]) == "417"
    first = tree.back_looks[0].position
    assert "".join(texts[first + 1 : first + 4]) == "420"  # 70 of 168 pixels, as answered


def test_last_looks_find_the_end_of_the_same_objects_point(tokenizer, make_clip, make_thing):
    objects = [make_thing("mug", "blue"), make_thing("mug", "red")]
    left, right = (20, 60, 40, 80), (120, 60, 140, 80)
    clip = make_clip(objects, [[right, left], [left, None], [left, right]])
    question = track_question(locate(clip), STAMPS, objects[0].category, OWN_COLOUR, None)
    tree = TreeWriter(tokenizer, 6).write(STAMPS, [question])
    texts = [tokenizer.id_to_token(i) for i in tree.ids]

    def written(end):
        return "".join(texts[end - 8 : end + 1]).replace("\u0120", " ")

    # From the id, through both coordinates, to the second digit of y.
    seen = {}
    for look in tree.last_looks:
        seen.setdefault(written(look.keys[0]), []).append(look.position)
    # The answer: 0.0 1 180 420 2 770 420; 0.5 2 180 420; 1.2 1 770 420 2 180 420
    assert list(seen) == ["2 770 420", "1 180 420", "2 180 420"]
    assert all(
        positions == list(range(positions[0], positions[0] + 7)) for positions in seen.values()
    )
    assert [texts[positions[0]] for positions in seen.values()] == ["2", "1", "2"]


def test_link_looks_find_the_object_in_the_frame_that_last_showed_it(
    tokenizer, make_clip, make_thing
):
    mug, lemon = make_thing("mug", "blue"), make_thing("lemon")
    left, middle, right = (10, 60, 40, 80), (70, 60, 100, 80), (130, 60, 160, 80)
    clip = make_clip([mug, lemon], [[left, None], [None, left], [right, middle]])
    sightings = locate(clip)
    tree = TreeWriter(tokenizer, 6).write(STAMPS, [], sightings)
    patches = [
        i for i, token in enumerate(tree.ids) if token == tokenizer.token_to_id("<im_patch>")
    ]
    found = [
        tuple(divmod(patches.index(i), 36) for i in (look.position, look.keys[0]))
        for look in tree.link_looks
    ]
    assert found == [((2, 17), (0, 12)), ((2, 15), (1, 12))]  # the mug was hidden in between


def test_every_look_is_scored_once_and_in_its_own_row(model, tokenizer, example):
    """A batch of two trees gives the looks' losses of each tree alone."""
    clip, questions = example
    writer, config = TreeWriter(tokenizer, 6), ModelConfig(vocab_size=576)
    heads, reader = DenseHeads(config), TextReader(model)
    trees = [writer.write(STAMPS, asked, locate(clip)) for asked in (questions[:1], questions)]
    features, _ = encode_frames(
        model, to_patches(torch.from_numpy(clip.frames), 14), pooling_windows(config)
    )
    features = features.reshape(1, -1, 128)
    losses = []
    for chosen in (trees[:1], trees[1:], trees):
        batch = writer.collate(chosen, len(STAMPS))
        with torch.no_grad():
            losses.append(reader.loss(batch, features.expand(len(chosen), -1, -1), heads))
    counts = [len(tree.digit_looks) + len(tree.next_looks) for tree in trees]
    mean = sum(n * loss.looks for n, loss in zip(counts, losses, strict=False)) / sum(counts)
    assert float(losses[2].looks) == pytest.approx(float(mean), abs=1e-4)
    assert float(losses[0].looks) != pytest.approx(float(losses[1].looks), abs=1e-3)


def test_links_name_where_an_object_was_last_and_first(make_clip, make_thing):
    mug, lemon = make_thing("mug", "blue"), make_thing("lemon")
    left, middle, right = (10, 60, 40, 80), (70, 60, 100, 80), (130, 60, 160, 80)
    clip = make_clip([mug, lemon], [[left, None], [middle, None], [None, left], [right, left]])
    links = link_labels([locate(clip)], 6)[0]  # six by six tokens
    # The boxes lie in row 2 of the tokens, columns 0, 3 (centre at 85 of 168 pixels) and 5.
    assert links.shape == (4, 36, 2)
    assert links[1, 15].tolist() == [12, 12]
    assert links[3, 17].tolist() == [15, 12]  # hidden in between
    assert links[3, 12].tolist() == [12, 12]
    assert int((links != IGNORED).sum()) == 6


def test_weights_fall_with_the_root_of_the_answer_and_labels_are_the_answer(tokenizer, example):
    _, questions = example
    tree = TreeWriter(tokenizer, 6).write(STAMPS, questions[:1])
    labels = [label for label in tree.labels if label != IGNORED]
    assert tokenizer.decode(labels, skip_special_tokens=False) == (
        questions[0].answer + "<|im_end|>"
    )
    assert sum(w > 0 for w in tree.weights) == len(labels)
    assert max(tree.weights) == pytest.approx(len(labels) ** -0.5)


def test_special_tokens_stand_where_the_released_tokenizers_have_them(tokenizer):
    assert [tokenizer.token_to_id(t) for t in VISUAL_TOKENS] == list(range(576, 586))
    assert all(tokenizer.token_to_id(t) < 576 for t in CHAT_TOKENS)
    assert tokenizer.encode("123").tokens == ["1", "2", "3"]
