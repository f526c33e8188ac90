"""Conversations in words alone, such as Tulu's: the text that keeps a model's language as it is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import MAX_TEXT, Annotation, Example, Task
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import rows

STYLE = "text_sft"
# Columns of molmo2-tulu4-classified, in which the authors noted what they leave out.
NOTES = ("source", "category", "first_message_qwen3_tokens", "empty_messages", "has_special_token")
LEFT_OUT_SOURCES = frozenset(
    {
        "allenai/dino-hardcodes",
        "allenai/hardcoded-olmo",
        "allenai/puzzle_data_160k-ngram-filtered",
        "faezeb/verifiable-reasoning-v3-o4-mini-length-filtered-verified",
        "allenai/verifiable-reasoning-filtered-o4-mini-filtered",
    }
)
LEFT_OUT_CATEGORIES = frozenset({"code", "non-english"})


def read_text_chats(
    source: Source, *, split: str | None = None, max_first_tokens: int = 4096
) -> Iterator[Example]:
    """One example a row: its turns are one branch, each of the assistant's is trained.

    Args:
        source: column `messages`: records of `role` (system, user, assistant) and `content`, the
            roles of user and assistant in turn; `id` and those of NOTES where the table has them.
        split: of the hub: train.
        max_first_tokens: rows whose first message is longer, by `first_message_qwen3_tokens`, are
            left out; the released models were pre-trained up to 2304 and fine-tuned up to 4096.

    Source: allenai/molmo2 `Tulu4Filtered`.
    """
    for row in rows(source.folder, ("messages",), optional=("id", *NOTES), split=split):
        yield from source.checked(row.place, partial(_example, source, row, max_first_tokens))


def _example(source: Source, row: Fields, max_first_tokens: int) -> Example | None:
    reason = _why_not(row, max_first_tokens)
    if reason is None:
        said = _turns(row)
        longest = max(len(text) for turn in said for text in turn)
        if longest <= MAX_TEXT:
            turns = tuple(
                Annotation(task=Task.REPLY, question=question, answer=answer, style=STYLE)
                for question, answer in said
            )
            name = row.key("id") if row.has("id") else row.place
            return Example(name=name, annotations=turns, dialogue=len(turns) > 1)
        reason = f"a message of {longest} characters, the format holds {MAX_TEXT}"
    source.report.skip(row.place, Why.RULE, reason)
    return None


def _why_not(row: Fields, max_first_tokens: int) -> str | None:
    """What the authors leave out, by the notes that the row has."""
    for note, meaning in (
        ("empty_messages", "an empty message"),
        ("has_special_token", "a control token in its words"),
    ):
        if row.has(note) and row.flag(note):
            return meaning
    for note, left_out in (("source", LEFT_OUT_SOURCES), ("category", LEFT_OUT_CATEGORIES)):
        if row.has(note) and row.text(note) in left_out:
            return f"{note} {row.text(note)}"
    num_tokens = "first_message_qwen3_tokens"
    if row.has(num_tokens) and row.whole(num_tokens) > max_first_tokens:
        return f"a first message of {row.whole(num_tokens)} tokens, more than {max_first_tokens}"
    return None


def _turns(row: Fields) -> Sequence[tuple[str, str]]:
    """Questions and answers. A system message stands before the first question's words.

    Raises:
        DataError: roles that do not take turns, or an empty message.
    """
    said = [(message.text("role"), message.text("content")) for message in row.records("messages")]
    system = ""
    if said and said[0][0] == "system":
        system = f"System: {said.pop(0)[1]}\n"
    roles = [role for role, _ in said]
    if not said or roles != ["user", "assistant"] * (len(said) // 2):
        raise DataError(
            f"{row.place}: roles {', '.join(roles) or 'none'}, expected user and assistant in turn"
        )
    texts = [text for _, text in said]
    if not all(texts):
        raise DataError(f"{row.place}: a message without words")
    texts[0] = system + texts[0]
    return list(zip(texts[::2], texts[1::2], strict=True))
