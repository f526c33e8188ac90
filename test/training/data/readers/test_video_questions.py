from molmo2_ros.training.data.example import Annotation, Example, Media, Task


def choice_row(video_id, question="Who?", answer="A cat", wrong=("A dog", "A cow", "A hen")):
    return {
        "video_id": video_id,
        "Question": question,
        "Answer": answer,
        "NegativeAnswers": list(wrong) if wrong is not None else None,
        "Category": "object",
    }


def test_questions_of_a_video_are_gathered_from_rows_that_stand_apart(
    tmp_path, write_table, touch, read, skipped
):
    touch("youtube-cc/youtube-cc-kw/a/x.mp4", "youtube-cc/youtube-cc-kw/b/x.mp4")
    rows = [("a", " Why? ", "So. "), ("b", "Who?", "Me."), ("a", "When?", "Now."), ("a", "?", " ")]
    write_table(
        "HumanQA-0.parquet",
        [{"video_id": v, "question": q, "answer": a} for v, q, a in rows]
        + [{"video_id": "gone", "question": "Who?", "answer": "Me."}],
    )
    examples, report = read("molmo2-ask-model-anything", split="HumanQA")

    def reply(question, answer):
        return Annotation(task=Task.REPLY, question=question, answer=answer, style="user_qa")

    folder = tmp_path / "youtube-cc/youtube-cc-kw"
    assert examples == [
        Example(
            name="a",
            media=Media(video=str(folder / "a/x.mp4")),
            annotations=(reply("Why?", "So."), reply("When?", "Now.")),
        ),
        Example(
            name="b",
            media=Media(video=str(folder / "b/x.mp4")),
            annotations=(reply("Who?", "Me."),),
        ),
    ]
    assert skipped(report) == [
        ("HumanQA-0.parquet, row 3", "left out by rule", "no answer"),
        ("HumanQA-0.parquet, row 4", "media not found", "no file for gone"),
    ]


def test_the_right_answer_stands_anywhere_among_the_choices(tmp_path, write_table, touch, read):
    touch("a.mp4")
    write_table("CapQA-0.parquet", [choice_row("a", f"Who {n}?") for n in range(60)])
    (example,), report = read("molmo2-video-cap-qa")
    assert example.media == Media(video=str(tmp_path / "a.mp4"))
    assert not report.skipped
    places = {annotation.choices.index("A cat") for annotation in example.annotations}
    assert places == {0, 1, 2, 3}
    for number, annotation in enumerate(example.annotations):
        assert [c for c in annotation.choices if c != "A cat"] == ["A dog", "A cow", "A hen"]
        assert annotation == Annotation(
            task=Task.REPLY,
            question=f"Who {number}?",
            answer="A cat",
            choices=annotation.choices,
            style="video_multiple_choice",
            source="language-model",
        )
    again, _ = read("molmo2-video-cap-qa")
    assert again == [example]
    other, _ = read("molmo2-video-cap-qa", seed=1)
    assert other != [example]


def test_subtitles_come_with_the_video_in_order(tmp_path, write_table, touch, read):
    touch("a.mp4")
    lines = [{"start": 3.0, "end": 4.5, "text": "two"}, {"start": 0.0, "end": 2.0, "text": "one"}]
    write_table("SubtitleQA-0.parquet", [{**choice_row("a"), "subtitle": lines}])
    (example,), _ = read("molmo2-video-subtitle-qa")
    assert example.media == Media(
        video=str(tmp_path / "a.mp4"), subtitles=((0.0, 2.0, "one"), (3.0, 4.5, "two"))
    )
    assert [annotation.answer for annotation in example.annotations] == ["A cat"]


def test_questions_that_cannot_be_used_are_reported(write_table, touch, read, skipped):
    touch("a.mp4")
    good = {**choice_row("a"), "subtitle": []}
    bad_line = [{"start": 3.0, "end": 1.0, "text": "x"}]
    write_table(
        "rows.jsonl",
        [
            {**choice_row("a", wrong=("A cat", "A dog")), "subtitle": []},
            {**choice_row("a", wrong=None), "subtitle": []},
            {**choice_row("a", question=""), "subtitle": []},
            {**choice_row("b"), "subtitle": bad_line},
            good,
        ],
    )
    (example,), report = read("molmo2-video-subtitle-qa")
    assert len(example.annotations) == 1
    assert skipped(report) == [
        ("rows.jsonl, row 0", "malformed", "'A cat' is both the right answer and a wrong one"),
        ("rows.jsonl, row 1", "malformed", "no 'NegativeAnswers', expected a value"),
        ("rows.jsonl, row 2", "malformed", "'Question' is empty, expected a question"),
        ("rows.jsonl, row 3", "malformed", "subtitle 0: subtitle from 3 to 1 s"),
    ]
