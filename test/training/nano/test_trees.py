import numpy as np
import pytest
import torch

from molmo2_ros.training.nano.losses import TextReader
from molmo2_ros.training.nano.model import (
    ModelConfig,
    build_model,
    encode_frames,
    pooling_windows,
    to_patches,
)
from molmo2_ros.training.nano.tokenizer import CHAT_TOKENS, VISUAL_TOKENS, train_nano_tokenizer
from molmo2_ros.training.nano.trees import IGNORED, TreeWriter, tree_mask
from molmo2_ros.training.scenes import clip_questions, locate

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
    batch = writer.collate([tree], len(STAMPS), torch.device("cpu"))
    if mask is not None:
        batch.mask_B1SS[:] = mask(batch.mask_B1SS)
    with torch.no_grad():
        hidden = TextReader(model).hidden_states(batch, features.reshape(1, -1, 128))
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
    mask = tree_mask(branch, visual)[0].int().tolist()
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
