"""The streaming runtime against transformers' generate() on a camera's sliding clip.

    python benchmarks/bench_stream.py [--answers 50] [--threads 2] [--cases tracking,...] [--json]

A simulated table's camera gives ten frames a second; each new frame slides an 8-frame clip, and
both sides answer about it in turn. Ours starts from the picture, generate() from patches that were
cut before its time began. A ratio counts only where all answers have equal tokens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402

from benchmarks.released_size import make_engine  # noqa: E402
from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.answers.answer import Answer  # noqa: E402
from molmo2_ros.camera.clip import Clip, ClipBuffer  # noqa: E402
from molmo2_ros.engines.checkpoint import load_checkpoint  # noqa: E402
from molmo2_ros.engines.parity import reference_arguments  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.prompt.query import Query, parse_query, question_text  # noqa: E402
from molmo2_ros.prompt.tokenizer import PromptTokenizer  # noqa: E402
from molmo2_ros.runtime.engine import NANO, Engine, load_engine  # noqa: E402
from molmo2_ros.runtime.golden import clip_inputs  # noqa: E402
from molmo2_ros.simulation.source import TableSource  # noqa: E402

CAMERA_HZ = 10.0
ANSWERS_HZ = 10.0  # of the query that the node is asked
TABLE_SEED = 2
MAX_NEW_TOKENS = 800
_WORTH_WARMING_S = 5.0  # what takes longer is measured as it starts
ONE_TARGET = "track: the lemon"
EIGHT_QUERIES = (
    "track: the lemon",
    "track: the red mug",
    "track: the blue mug",
    "track: the bowl",
    "track: the banana",
    "track: the cone",
    "track: the duck",
    "track: the green apple",
)


class Sliding:
    """Clips of a simulated camera, each one frame newer than the last."""

    def __init__(self, grounder: Grounder, query: Query) -> None:
        self._source = TableSource(seed=TABLE_SEED, rate_hz=CAMERA_HZ)
        self._window = ClipBuffer(duration_s=4.0, max_frames=100)
        self._grounder, self._query = grounder, query
        while self._window.push(self._source.read()) and self._clip().times_s[-1] < 3.0:
            pass

    def __iter__(self) -> Iterator[Clip]:
        while True:
            self._window.push(self._source.read())
            yield self._clip()

    def _clip(self) -> Clip:
        return self._grounder.clip_for(self._window, self._query)


class Reference:
    """transformers' generate() on the checkpoint that an engine was exported from."""

    def __init__(
        self, engine: Engine, checkpoint: Path, threads: int, max_new_tokens: int = MAX_NEW_TOKENS
    ) -> None:
        torch.set_num_threads(threads)
        self._max_new_tokens = max_new_tokens
        self._model = load_checkpoint(checkpoint)
        self._engine = engine
        self._tokenizer = PromptTokenizer(engine.folder)
        self.options: dict[str, Any] = {}

    def arguments(self, clip: Clip, query: Query) -> dict[str, Any]:
        """What generate() reads: patches, pooling and token ids."""
        images = [frame.image for frame in clip.frames]
        vision = self._engine.manifest.vision
        text = question_text(query)
        return reference_arguments(clip_inputs(vision, self._tokenizer, images, clip.times_s, text))

    @torch.inference_mode()
    def answer(self, arguments: dict[str, Any]) -> list[int]:
        """Tokens of the answer, without the ending one."""
        end = sorted(self._engine.manifest.tokens.eos_ids)
        written = self._model.generate(
            **arguments,
            do_sample=False,
            max_new_tokens=self._max_new_tokens,
            eos_token_id=end,
            **self.options,
        )
        tokens: list[int] = written[0, arguments["input_ids"].shape[1] :].tolist()
        return tokens[:-1] if tokens and tokens[-1] in end else tokens

    def wrote_the_same(self, tokens: Sequence[int], answer: Answer) -> bool:
        """Whether our answer has the text and the number of these tokens."""
        text = self._tokenizer.decode(tokens)
        return answer.text == text and answer.timing.num_answer_tokens == len(tokens)

    def choose_options(self, clip: Clip, query: Query) -> str:
        """Take the faster of its two caches (compiling the static one: docs/journal.md)."""
        arguments = self.arguments(clip, query)
        spent = {}
        for name in ("dynamic", "static"):
            self.options = {} if name == "dynamic" else {"cache_implementation": "static"}
            spent[name] = _seconds(lambda: self.answer(arguments))[0]
            if spent[name] < _WORTH_WARMING_S:
                spent[name] = min(_seconds(lambda: self.answer(arguments))[0] for _ in range(3))
        best = min(spent, key=lambda name: spent[name])
        self.options = {} if best == "dynamic" else {"cache_implementation": "static"}
        return ", ".join(f"{name} {1e3 * value:.0f} ms" for name, value in spent.items())


@dataclass(slots=True)
class Measured:
    """Rows, figures and what was checked."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    equality: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)


def measure_tracking(engine: Engine, threads: int, num_answers: int, into: Measured) -> None:
    """(a) One target, tracked on a sliding clip."""
    checkpoint = engine.folder / "checkpoint"
    answers = _tracking("tracking", engine, checkpoint, threads, num_answers, into)
    passes = [answer.timing.num_passes for answer in answers]
    into.figures["passes_per_answer"] = float(np.mean(passes))
    accepted = sum(answer.timing.num_accepted for answer in answers)
    into.figures["accepted_per_pass"] = accepted / sum(passes)


def measure_released(engine: Engine, threads: int, num_answers: int, into: Measured) -> None:
    """(c) The released vision size, two layers of Qwen3-4B's width, random weights."""
    del engine
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(into.settings["released"] or scratch)
        if not (folder / "engine" / "manifest.json").exists():
            make_engine(folder)
        released = load_engine(folder / "engine", threads=threads)
        checkpoint = folder / "checkpoint"
        _tracking("released_vision", released, checkpoint, threads, num_answers, into, 100)


def _tracking(
    name: str,
    engine: Engine,
    checkpoint: Path,
    threads: int,
    num_answers: int,
    into: Measured,
    max_new_tokens: int = MAX_NEW_TOKENS,
) -> list[Answer]:
    query = parse_query(ONE_TARGET)
    grounder = Grounder(engine)
    reference = Reference(engine, checkpoint, threads, max_new_tokens)
    clips = iter(Sliding(grounder, query))
    grounder.answer(next(clips), query, max_new_tokens=max_new_tokens)
    into.settings[f"generate() caches, {name}"] = reference.choose_options(next(clips), query)
    ours_ms, theirs_ms, equal, answers = [], [], [], []
    for _ in range(num_answers):
        clip = next(clips)
        arguments = reference.arguments(clip, query)
        seconds, answer = _seconds(
            lambda c=clip: grounder.answer(c, query, max_new_tokens=max_new_tokens)
        )
        ours_ms.append(1e3 * seconds)
        seconds, tokens = _seconds(lambda a=arguments: reference.answer(a))
        theirs_ms.append(1e3 * seconds)
        equal.append(reference.wrote_the_same(tokens, answer))
        answers.append(answer)
    into.rows += [
        spread(f"{name}: ours, whole answer", ours_ms, "ms"),
        *(
            spread(
                f"{name}: ours, {part}",
                [1e3 * getattr(a.timing, f"{part}_s") for a in answers],
                "ms",
            )
            for part in ("encode", "prefill", "decode")
        ),
        spread(f"{name}: generate()", theirs_ms, "ms"),
        spread(f"{name}: decoder passes", [a.timing.num_passes for a in answers], "passes"),
        spread(f"{name}: tokens", [a.timing.num_answer_tokens for a in answers], "tokens"),
    ]
    into.equality[f"{name}: answers with equal tokens"] = f"{sum(equal)} of {len(equal)}"
    into.figures["equal"] = float(all(equal)) * into.figures.get("equal", 1.0)
    if all(equal):
        into.figures[f"speedup_{name}"] = float(np.median(theirs_ms) / np.median(ours_ms))
    return answers


def measure_queries(engine: Engine, threads: int, num_answers: int, into: Measured) -> None:
    """(b) Eight queries about one clip, against eight calls of generate()."""
    queries = [parse_query(text) for text in EIGHT_QUERIES]
    grounder = Grounder(engine)
    reference = Reference(engine, engine.folder / "checkpoint", threads)
    clips = iter(Sliding(grounder, queries[0]))
    grounder.answer_all(next(clips), queries)
    reference.choose_options(next(clips), queries[0])
    ours_ms, theirs_ms, equal, passes = [], [], [], []
    for _ in range(num_answers):
        clip = next(clips)
        arguments = [reference.arguments(clip, query) for query in queries]
        seconds, answers = _seconds(lambda c=clip: grounder.answer_all(c, queries))
        ours_ms.append(1e3 * seconds)
        seconds, written = _seconds(lambda a=arguments: [reference.answer(each) for each in a])
        theirs_ms.append(1e3 * seconds)
        equal += [reference.wrote_the_same(*pair) for pair in zip(written, answers, strict=True)]
        passes.append(max(answer.timing.num_passes for answer in answers))
    into.rows += [
        spread("eight queries: ours", ours_ms, "ms"),
        spread("eight queries: generate()", theirs_ms, "ms"),
        spread("eight queries: decoder passes", passes, "passes"),
    ]
    into.equality["eight queries: answers with equal tokens"] = f"{sum(equal)} of {len(equal)}"
    into.figures["equal"] = float(all(equal)) * into.figures.get("equal", 1.0)
    if all(equal):
        into.figures["speedup_eight_queries"] = float(np.median(theirs_ms) / np.median(ours_ms))


def measure_first_point(engine: Engine, threads: int, num_answers: int, into: Measured) -> None:
    """First point of an answer when nothing can be drafted: a share of the whole answer's time."""
    del threads
    query = parse_query(ONE_TARGET)
    grounder = Grounder(engine, drafted=False)
    shares, first_ms = [], []
    clips = iter(Sliding(grounder, query))
    for _ in range(num_answers):
        clip = next(clips)
        arrived_s: list[float] = []
        started = time.perf_counter()
        grounder.answer(
            clip, query, on_partial=lambda _, to=arrived_s: to.append(time.perf_counter())
        )
        whole_s = time.perf_counter() - started
        if arrived_s:
            first_ms.append(1e3 * (arrived_s[0] - started))
            shares.append((arrived_s[0] - started) / whole_s)
    into.rows.append(spread("nothing drafted: first point", first_ms, "ms"))
    into.figures["first_point_share"] = float(np.median(shares))


def measure_node(engine: Engine, threads: int, num_answers: int, into: Measured) -> None:
    """From a frame at the camera node to the published answer about a clip that ends with it."""
    del engine
    from benchmarks.bench_nodes import frame_to_answer

    ages_ms, cpu_share, resident_mb = frame_to_answer(
        ONE_TARGET, ANSWERS_HZ, max(20.0, num_answers / ANSWERS_HZ), threads
    )
    row = spread(f"node, {ANSWERS_HZ:g} answers a second: frame to answer", ages_ms, "ms")
    into.rows += [
        row,
        spread("node: CPU of the grounding node", [100 * cpu_share], "% of a core"),
        spread("node: resident memory", [resident_mb], "MB"),
    ]
    into.figures["frame_to_answer_ms_median"] = row["median"]
    into.figures["frame_to_answer_ms_p99"] = row["p99"]


DEFAULT_CASES = "tracking,queries,first_point,node"  # the released size takes a minute an answer
CASES: dict[str, Callable[[Engine, int, int, Measured], None]] = {
    "tracking": measure_tracking,
    "queries": measure_queries,
    "first_point": measure_first_point,
    "node": measure_node,
    "released": measure_released,
}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--cases", default=DEFAULT_CASES, help=f"of {', '.join(CASES)}; comma between them"
    )
    parser.add_argument(
        "--released", metavar="DIR", default="", help="keep the model of the released size there"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    engine = load_engine(options.engine, threads=options.threads)
    measured = Measured(
        settings={
            "engine": engine.manifest.name,
            "answers": options.answers,
            "threads": options.threads,
            "released": options.released,
            "camera": f"table {TABLE_SEED}, 320x240, {CAMERA_HZ:g} Hz",
        }
    )
    for case in options.cases.split(","):
        CASES[case](engine, options.threads, options.answers, measured)
    publish(
        "stream",
        measured.rows,
        packages=("numpy", "onnxruntime", "torch", "transformers"),
        settings=measured.settings,
        figures={name: round(value, 3) for name, value in measured.figures.items()},
        equality=measured.equality,
        as_json=options.json,
    )


def _seconds(function: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


if __name__ == "__main__":
    main()
