"""Answer tokens trained per second: packed trees beside one question a sequence with padding.

    python benchmarks/bench_training.py [--clips 48] [--rounds 3] [--threads 2] [--json]

Both ways train the same questions about the same clips with the same model, loss and optimiser:
molmo2-nano on simulated tables, clips of one to eight frames as Molmo2's mixture has images and
videos, about five questions a clip. Packed: a clip's questions are branches of one tree, the vision
tower reads the clip once, trees fill sequences by the knapsack. Padded: as a usual trainer does,
every question has a row with the clip of its own, and rows of a batch are padded to the longest.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.engines.checkpoint import read_config, vision_facts  # noqa: E402
from molmo2_ros.engines.torchvision_ops import declare_missing_ops  # noqa: E402
from molmo2_ros.prompt.tokenizer import PromptTokenizer  # noqa: E402
from molmo2_ros.runtime.engine import NANO  # noqa: E402
from molmo2_ros.training.held_out import held_out_clips  # noqa: E402
from molmo2_ros.training.recipe.attention import use_stock_attention, use_tree_attention  # noqa: E402
from molmo2_ros.training.recipe.batch import collate, forward  # noqa: E402
from molmo2_ros.training.recipe.loss import weighted_loss  # noqa: E402
from molmo2_ros.training.recipe.messages import IGNORED, TokenTree, TreeWriter, Turn  # noqa: E402
from molmo2_ros.training.recipe.packing import Packer  # noqa: E402
from molmo2_ros.training.scenes import clip_questions, locate, still_questions  # noqa: E402

declare_missing_ops()

from transformers import Molmo2ForConditionalGeneration  # noqa: E402

LENGTHS = (1, 1, 1, 2, 4, 8)  # frames of the clips, in turn: half of the examples are images
STEP_S = 0.5
LEARNING_RATE = 1e-5
NEAR = 1e-4


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--tokens", type=int, default=4096, help="of a packed sequence")
    parser.add_argument("--rows", type=int, default=8, help="of a padded batch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    checkpoint = NANO / "checkpoint"
    model = Molmo2ForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
    config = read_config(checkpoint)
    writer = TreeWriter(PromptTokenizer(checkpoint), vision_facts(checkpoint, config))
    trees, singles = write_examples(writer, options.clips, options.seed)

    ways: dict[str, list[Step]] = {
        "packed trees": packed_steps(trees, options.tokens),
        "one question a sequence, padded": padded_steps(singles, options.rows),
    }
    loss = {way: mean_loss(model, steps) for way, steps in ways.items()}
    is_equal = abs(loss["packed trees"] - loss["one question a sequence, padded"]) < NEAR
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for round_number in range(options.rounds + 1):  # the first one warms up
        for way, steps in ways.items():
            spent = train(model, steps)
            if round_number:
                seconds[way].append(spent)
    rows = [row(way, steps, seconds[way]) for way, steps in ways.items()]
    packed, padded = (each["tokens_per_s"] for each in rows)
    publish(
        "training",
        rows,
        packages=("torch", "transformers", "numpy"),
        settings=vars(options),
        figures={"speedup_packed_trees": round(packed / padded, 2)} if is_equal else {},
        equality={"same loss": is_equal, **{f"loss, {way}": loss[way] for way in ways}},
        as_json=options.json,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One forward and backward pass and what the optimiser does after it."""

    batch: Any  # PackedBatch, or the arguments of the stock forward
    labels_L: torch.Tensor
    weights_L: torch.Tensor
    num_positions: int  # tokens that the language model computes, padding among them
    num_views: int


def write_examples(
    writer: TreeWriter, num_clips: int, seed: int
) -> tuple[list[TokenTree], list[TokenTree]]:
    """Trees, and the same questions each with the clip of its own, weighted as in its tree."""
    rng = np.random.default_rng(seed)
    trees, singles = [], []
    for number in range(num_clips):
        length = LENGTHS[number % len(LENGTHS)]
        (clip,) = held_out_clips(seed + number, 1, length)
        stamps_s = [STEP_S * i for i in range(length)]
        sightings = locate(clip)
        asked = (
            still_questions(sightings, rng)
            if length == 1
            else clip_questions(sightings, stamps_s, rng)
        )
        if not asked:
            continue
        visual = writer.clip(list(clip.frames), stamps_s)
        turns = [Turn(question=q.text, answer=q.answer, weight=0.2) for q in asked]
        name = f"clip {number}"
        trees.append(writer.write(name, visual, [[turn] for turn in turns], max_tokens=4096))
        singles += [writer.write(name, visual, [[turn]], max_tokens=4096) for turn in turns]
    order = rng.permutation(len(singles))
    return trees, [singles[i] for i in order]


def packed_steps(trees: Sequence[TokenTree], max_tokens: int) -> list[Step]:
    """Sequences as the packer fills them."""
    longest = max(tree.num_tokens for tree in trees)
    packer = Packer(max(max_tokens, -(-longest // 32) * 32), max_crops=64)
    steps = []
    for pack in packer.pack(enumerate(trees)):
        batch = collate(pack)
        steps.append(
            Step(
                batch=batch,
                labels_L=batch.labels_L,
                weights_L=batch.weights_L,
                num_positions=batch.ids_1S.shape[1],
                num_views=len(batch.patches_KNC),
            )
        )
    return steps


def padded_steps(singles: Sequence[TokenTree], num_rows: int) -> list[Step]:
    """Batches of rows as a usual collator pads them, for the stock forward."""
    return [
        padded_step(singles[start : start + num_rows]) for start in range(0, len(singles), num_rows)
    ]


def padded_step(rows: Sequence[TokenTree]) -> Step:
    """Rows of equal length; the clip of every row goes through the vision tower."""
    size = max(row.num_tokens for row in rows)

    def padded(arrays: Sequence[Any], fill: int) -> torch.Tensor:
        filled = [np.pad(a, (0, size - len(a)), constant_values=fill) for a in arrays]
        return torch.from_numpy(np.stack(filled))

    labels_BS = padded([row.labels for row in rows], IGNORED)
    weights_BS = padded([row.weights for row in rows], 0)
    offsets = np.cumsum([0, *(row.num_crops * row.patches_KNC.shape[1] for row in rows[:-1])])
    windows = np.concatenate(
        [
            np.where(r.windows_MW >= 0, r.windows_MW + o, -1)
            for r, o in zip(rows, offsets, strict=True)
        ]
    )
    sides = [round((len(row.windows_MW) // row.num_crops) ** 0.5) for row in rows]
    wanted = labels_BS[:, 1:] != IGNORED
    arguments = {
        "input_ids": padded([row.ids for row in rows], 0),
        "attention_mask": padded([np.ones(row.num_tokens, np.int64) for row in rows], 0),
        "mm_token_type_ids": padded([row.is_visual.astype(np.int64) for row in rows], 0),
        "pixel_values_videos": torch.from_numpy(np.concatenate([r.patches_KNC for r in rows])),
        "video_token_pooling": torch.from_numpy(windows),
        "video_grids": torch.tensor(
            [[row.num_crops, side, side] for row, side in zip(rows, sides, strict=True)]
        ),
        "wanted": wanted,
    }
    return Step(
        batch=arguments,
        labels_L=labels_BS[:, 1:][wanted],
        weights_L=weights_BS[:, 1:][wanted],
        num_positions=size * len(rows),
        num_views=sum(row.num_crops for row in rows),
    )


def loss_of(model: Molmo2ForConditionalGeneration, step: Step, divide_by: float) -> Any:
    """The loss of a step by either way."""
    if isinstance(step.batch, dict):
        use_stock_attention(model)
        arguments = dict(step.batch)
        wanted = arguments.pop("wanted")
        hidden = model.model(**arguments, use_cache=False).last_hidden_state
        logits_LV = model.lm_head(hidden[:, :-1][wanted])
    else:
        use_tree_attention(model)
        logits_LV = forward(model, step.batch)
    return weighted_loss(logits_LV, step.labels_L, step.weights_L, divide_by=divide_by)


def mean_loss(model: Molmo2ForConditionalGeneration, steps: Sequence[Step]) -> float:
    """The loss over all steps, by token weight, before anything is trained."""
    model.eval()
    with torch.no_grad():
        losses = [loss_of(model, step, 1.0) for step in steps]
    return sum(each.cross_entropy for each in losses) / sum(each.weight for each in losses)


def train(model: Molmo2ForConditionalGeneration, steps: Sequence[Step]) -> float:
    """Seconds for one pass over all steps; the weights are put back afterwards."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, betas=(0.9, 0.95), eps=1e-6)
    model.train()
    started = time.perf_counter()
    for step in steps:
        loss_of(model, step, float(step.weights_L.sum())).total.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    spent = time.perf_counter() - started
    model.load_state_dict(before)
    return spent


def row(way: str, steps: Sequence[Step], seconds: Sequence[float]) -> dict[str, Any]:
    """One line of the table."""
    num_trained = sum(len(step.labels_L) for step in steps)
    return {
        **spread(way, [1e3 * each for each in seconds], "ms a pass"),
        "steps": len(steps),
        "trained": num_trained,
        "positions": sum(step.num_positions for step in steps),
        "views": sum(step.num_views for step in steps),
        "tokens_per_s": round(num_trained / float(np.median(seconds)), 1),
    }


if __name__ == "__main__":
    main()
