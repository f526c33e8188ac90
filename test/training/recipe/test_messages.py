import numpy as np
import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.recipe.messages import IGNORED, PREFIX, Turn


def words(writer, ids):
    return writer.tokenizer.decode([int(i) for i in ids], keep_control=True)


def test_a_branch_is_the_question_and_its_answer_behind_the_clip(writer, trees):
    tree = trees[0]
    first = words(writer, tree.ids[tree.branch == 1])
    assert first == (
        "<|im_start|>user\nPoint to the red mug.<|im_end|>\n<|im_start|>assistant\n"
        "There are none.<|im_end|>"
    )
    prefix = words(writer, tree.ids[tree.branch == PREFIX])
    frame = "<frame_start>" + 16 * "<im_patch>" + "<frame_end>"
    assert prefix == f"<|im_end|>0.0 {frame} 0.5 {frame} 1.2 {frame}"
    assert tree.num_crops == 3
    assert len(tree.windows_MW) == 48


def test_a_conversation_is_one_branch_of_which_every_answer_is_trained(writer, trees):
    tree = trees[0]
    here = tree.branch == 3
    assert words(writer, tree.ids[here]) == (
        "<|im_start|>user\nWhat is this?<|im_end|>\n<|im_start|>assistant\na table<|im_end|>"
        "\n<|im_start|>user\nAnd on it?<|im_end|>\n<|im_start|>assistant\n"
        "nothing but a mug<|im_end|>"
    )
    labels = tree.labels[here]
    assert (
        words(writer, labels[labels != IGNORED]) == "a table<|im_end|>nothing but a mug<|im_end|>"
    )
    assert np.all((tree.weights > 0) == (tree.labels != IGNORED))


def test_positions_restart_behind_the_prefix(trees):
    for tree in trees:
        start = int((tree.branch == PREFIX).sum())
        for branch in (1, 2, 3):
            positions = tree.positions[tree.branch == branch]
            assert positions.tolist() == list(range(start, start + len(positions)))


def test_tokens_weigh_as_the_authors_trainer_has_it(writer, visuals):
    def weights(*branches):
        tree = writer.write("x", visuals["clip"], branches, max_tokens=4096)
        return [sorted(set(tree.weights[tree.branch == i].tolist()) - {0}) for i in (1, 2, 3)]

    four = Turn(question="How many?", answer="1234")  # a token a digit
    alone, *_ = weights([four])
    assert alone == pytest.approx([2 / 5**0.5])  # the token that ends the answer counts
    assert weights([four], [four], [four])[0] == pytest.approx([2 / 4**0.5 / 3**0.5])  # not here
    flat = Turn(question="Point.", answer="1234", weight=0.2)
    assert weights([flat], [four])[0] == pytest.approx([0.2])
    talk = weights([four, Turn(question="And?", answer="12345")])[0]
    assert talk == pytest.approx([2 / 11**0.5])  # all turns of a message count together


def test_branches_are_shuffled_and_the_last_ones_left_out_where_they_do_not_fit(
    writer, visuals, branches
):
    whole = writer.write("x", visuals["clip"], branches, max_tokens=4096)
    rng = np.random.default_rng(1)
    orders = {
        words(writer, writer.write("x", visuals["clip"], branches, max_tokens=4096, rng=rng).ids)
        for _ in range(40)
    }
    assert len(orders) == 6
    prefix, first = (int((whole.branch == b).sum()) for b in (PREFIX, 1))
    cut = writer.write("x", visuals["clip"], branches, max_tokens=prefix + first)
    assert (cut.num_tokens, cut.num_dropped) == (prefix + first, 2)
    with pytest.raises(DataError, match=rf"example x takes {prefix + first} tokens .* at most 9"):
        writer.write("x", visuals["clip"], branches, max_tokens=9)


@pytest.mark.parametrize("branches", [[], [[]]])
def test_an_example_without_a_question_is_refused(writer, visuals, branches):
    with pytest.raises(DataError, match="example x has no question"):
        writer.write("x", visuals["clip"], branches, max_tokens=99)


def test_words_of_a_label_never_become_control_tokens(writer, visuals):
    spelt = "<|im_end|><im_patch>"
    tree = writer.write(
        "x", visuals["clip"], [[Turn(question=spelt, answer=spelt)]], max_tokens=999
    )
    text = tree.ids[tree.branch == 1]
    controls = [int(i) for i in text if int(i) in writer.tokenizer.control_ids]
    assert words(writer, controls) == "<|im_start|><|im_end|><|im_start|><|im_end|>"
    assert not tree.is_visual[tree.branch == 1].any()


def test_words_alone_are_cut_off_where_they_are_too_long(writer, visuals):
    turns = [[Turn(question="Why?", answer="0123456789"), Turn(question="And?", answer="5")]]
    whole = writer.write("x", visuals["words"], turns, max_tokens=4096)
    for num in range(whole.num_tokens - 1, 0, -1):
        if not (whole.labels[:num] != IGNORED).any():
            break
        cut = writer.write("x", visuals["words"], turns, max_tokens=num)
        assert list(cut.ids) == list(whole.ids[:num])
        assert list(cut.labels) == list(whole.labels[:num])
        assert list(cut.weights) == list(whole.weights[:num])
    with pytest.raises(DataError, match=f"expected at most {num}"):  # of the question alone
        writer.write("x", visuals["words"], turns, max_tokens=num)
    with pytest.raises(DataError, match="expected at most 40"):  # pictures are never half seen
        writer.write("x", visuals["clip"], turns, max_tokens=40)
