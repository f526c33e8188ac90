import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molmo2_ros.training.data.dataset import read_example, write_example
from molmo2_ros.training.data.example import Annotation, Example, Task

USER, HELPER = "user", "assistant"


def chat(*texts, roles=(USER, HELPER), **notes):
    said = [{"role": roles[i % len(roles)], "content": text} for i, text in enumerate(texts)]
    return {"messages": said, **notes}


def reply(question, answer):
    return Annotation(task=Task.REPLY, question=question, answer=answer, style="text_sft")


def test_turns_of_a_row_are_one_dialogue_without_media(write_table, read):
    write_table(
        "data/train-00000-of-00001.parquet",
        [
            chat("Hello.", " Good day. ", "And now?", "Nothing.", id="a", source="x"),
            chat("Be brief.", "Why?", "So.", roles=("system", USER, HELPER), id="b", source="x"),
        ],
    )
    examples, report = read("text-chats", split="train")
    turns = (reply("Hello.", "Good day."), reply("And now?", "Nothing."))
    assert examples == [
        Example(name="a", annotations=turns, dialogue=True),
        Example(name="b", annotations=(reply("System: Be brief.\nWhy?", "So."),)),
    ]
    assert all(example.media.is_empty for example in examples)
    assert not report.skipped


def test_a_table_of_messages_alone_is_read_and_rows_give_the_names(write_table, read):
    write_table("chats.jsonl", [chat("One?", "1"), chat("Two?", "2")])
    examples, _ = read("text-chats")
    assert [example.name for example in examples] == ["chats.jsonl, row 0", "chats.jsonl, row 1"]


def test_what_the_authors_leave_out_is_left_out_and_told(write_table, read, skipped):
    notes = {
        "source": "tulu",
        "category": "math",
        "first_message_qwen3_tokens": 9,
        "empty_messages": False,
        "has_special_token": False,
    }
    changed = [
        {},
        {"source": "allenai/dino-hardcodes"},
        {"category": "code"},
        {"first_message_qwen3_tokens": 2305},
        {"empty_messages": True},
        {"has_special_token": True},
    ]
    write_table("t.jsonl", [chat("Q", "A", **notes) | each for each in changed])
    examples, report = read("text-chats", max_first_tokens=2304)
    assert len(examples) == 1
    assert skipped(report) == [
        (f"t.jsonl, row {number}", "left out by rule", reason)
        for number, reason in enumerate(
            [
                "source allenai/dino-hardcodes",
                "category code",
                "a first message of 2305 tokens, more than 2304",
                "an empty message",
                "a control token in its words",
            ],
            1,
        )
    ]


@pytest.mark.parametrize(
    ("row", "why", "reason"),
    [
        (chat("Q"), "malformed", "roles user, expected user and assistant in turn"),
        (chat("Q", "A", roles=(HELPER, USER)), "malformed", "roles assistant, user, expected"),
        (chat("Q", "A", "B", roles=(USER, HELPER, HELPER)), "malformed", "expected user and"),
        (chat(), "malformed", "roles none"),
        (chat("S", roles=("system",)), "malformed", "roles none"),
        (chat("Q", " "), "malformed", "a message without words"),
        (chat("Q", "a" * 20_001), "left out by rule", "a message of 20001 characters"),
        ({"messages": "Q"}, "malformed", "messages is 'Q', expected a list"),
    ],
)
def test_rows_that_are_no_conversation_are_reported(write_table, read, skipped, row, why, reason):
    write_table("t.jsonl", [chat("Q", "A"), row])
    examples, report = read("text-chats")
    assert len(examples) == 1
    ((place, found, told),) = skipped(report)
    assert (place, found) == ("t.jsonl, row 1", why)
    assert reason in told


WORDS = st.text(min_size=1, max_size=40).filter(lambda text: text.strip())


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turns=st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=4))
def test_any_words_come_back_from_a_row_of_the_format(write_table, read, turns):
    write_table("t.jsonl", [chat(*(text for turn in turns for text in turn))])
    ((example,), _) = read("text-chats")
    said = [(a.question, a.answer) for a in example.annotations]
    assert said == [(question.strip(), answer.strip()) for question, answer in turns]
    line = write_example(example)
    assert "media" not in line.split('"annotations"')[0]
    assert read_example(line, "row") == example
