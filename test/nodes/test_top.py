"""`molmo2 top` on a running node: what it draws, what it prints, and text that would be markup."""

import argparse
import asyncio
import builtins
import io
import json
import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rich.console import Console
from std_msgs.msg import String
from textual.widgets import DataTable, RichLog, Static

from molmo2_ros.cli.main import main
from molmo2_ros.ros import qos
from molmo2_ros.ros.grounding_node import GroundingNode
from molmo2_ros.ros.top import TopApp, print_once, run, watching

PATIENCE_S = 30.0


def cells(app, place):
    table = app.query_one(place, DataTable)
    return [[str(cell) for cell in table.get_row_at(row)] for row in range(table.row_count)]


async def until(pilot, wanted):
    """Let the view run until it shows what is wanted."""
    for _ in range(int(PATIENCE_S / 0.1)):
        await pilot.pause(0.1)
        if wanted():
            return
    raise AssertionError("the view never showed it")


@pytest.fixture(autouse=True)
def domain(node_under_test, monkeypatch):
    """The view takes its shell's domain."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(node_under_test.domain_id))


@pytest.fixture
def grounding(node_under_test, camera):
    node_under_test.start(
        GroundingNode,
        queries=["mugs=count[2 hz]: mugs", "sky=ask: Is the sky blue?"],
        diagnostics_period_s=0.2,
    )
    node_under_test.play(camera, rate_hz=10.0)
    return node_under_test


def test_stages_queries_and_answers_of_a_running_node_are_drawn(grounding):
    async def look(watch):
        app = TopApp(watch)
        async with app.run_test(size=(160, 48)) as pilot:
            await until(pilot, lambda: len(app.query_one("#answers", RichLog).lines) > 1)
            await until(pilot, lambda: len(cells(app, "#stages")) == 7)
            await until(
                pilot, lambda: any(row[5] not in ("", "0") for row in cells(app, "#queries"))
            )
            state = str(app.query_one("#state", Static).render())
            answers = [line.text for line in app.query_one("#answers", RichLog).lines]
            return state, cells(app, "#stages"), cells(app, "#queries"), answers

    with watching(["grounding"]) as watch:
        state, stages, queries, answers = asyncio.run(look(watch))

    assert state.endswith("grounding, 2 queries stand")
    figures = {name: row for name, *row in stages}
    assert "rate_hz " in figures["grounding: camera"][1]
    assert "last_prefill_s " in figures["grounding: answers"][1]
    assert "memory_mb " in figures["grounding: process"][1]
    by_name = {row[0]: row for row in queries}
    assert by_name["mugs"][1:5:3] == ["count", "2.0"]
    assert "cannot do 'ask'" in by_name["sky"][2]
    assert any(line.startswith("grounding mugs: ") for line in answers)
    assert any(line.endswith(" ms") for line in answers)  # a long line is folded


def test_without_a_terminal_it_is_printed_once(grounding, capsys):
    options = argparse.Namespace(node=None, once=False, wait=PATIENCE_S)

    run(options)

    printed = capsys.readouterr().out
    assert "grounding: camera" in printed
    assert "grounding: process" in printed


def test_what_others_write_is_shown_and_never_obeyed(node_under_test):
    hostile = "[red]hot[/red] \x1b[2J"
    status = DiagnosticStatus(
        name="grounding: camera",
        level=DiagnosticStatus.ERROR,
        message=hostile,
        values=[KeyValue(key="rate_hz", value="[link=x]")],
    )
    foreign = DiagnosticStatus(name="battery: cell 3", level=DiagnosticStatus.ERROR)
    entry = {"name": hostile, "kind": "point", "words": "x"}

    with watching(["grounding"]) as watch:
        for _ in range(int(PATIENCE_S / 0.1)):
            node_under_test.send("/diagnostics", DiagnosticArray(status=[foreign, status]))
            for text in ("no json", "[]", '{"queries": 3}', json.dumps({"queries": [entry, 7]})):
                node_under_test.send("grounding/queries", String(data=text), qos.state_qos())
            huge = f'{{"query": {{}}, "timing": {{"encode_s": 1{"0" * 400}}}}}'
            words = '{"query": {}, "timing": {"encode_s": "x"}}'
            for text in ("", "[" * 100_000, '{"query": "x"}', huge, words):
                node_under_test.send("grounding/answer", String(data=text))
            picture = watch.picture()
            if picture.stages and picture.queries and picture.answers:
                break
            time.sleep(0.1)
        out = io.StringIO()
        code = print_once(watch, 0.0, Console(file=out, width=200))

    assert code == 1  # there is an error
    assert picture.answers  # the words behind what could not be read were heard
    assert [stage.name for stage in picture.stages] == ["grounding: camera"]
    assert "[red]hot[/red]" in out.getvalue()
    assert "[link=x]" in out.getvalue()
    assert "\x1b" not in out.getvalue()


def test_no_node_is_told(node_under_test):
    out = io.StringIO()
    with watching(["grounding"]) as watch:
        assert print_once(watch, 0.1, Console(file=out)) == 1
    assert "no node of this package" in out.getvalue()


def test_without_ros_it_says_what_is_missing(monkeypatch, capsys):
    real = builtins.__import__

    def without_ros(name, *arguments, **options):
        if name == "rclpy" or name.startswith("molmo2_ros.ros.top"):
            raise ImportError("No module named 'rclpy'", name="rclpy")
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_ros)
    monkeypatch.setattr("importlib.import_module", lambda name: without_ros(name))

    assert main(["top", "--once"]) == 2
    assert "molmo2 top needs rclpy, which is not installed here" in capsys.readouterr().err
