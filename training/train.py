"""Train a Molmo2: `molmo2 train FILE [key=value ...] --out DIR`.

On several GPUs or machines: `torchrun --nproc-per-node N -m molmo2_ros.training.train --config FILE
--out DIR [key=value ...]`. Read downwards: open model and data, then steps; a stopped run goes on
from its last checkpoint when the same command is given again. `DIR/model` is what stock
transformers and `molmo2 export` load.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from tqdm import tqdm

from molmo2_ros.engines.checkpoint import read_config, vision_facts
from molmo2_ros.engines.hub import find_checkpoint
from molmo2_ros.engines.torchvision_ops import declare_missing_ops
from molmo2_ros.errors import DataError, Molmo2Error
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.durable import replace_text
from molmo2_ros.training import checkpoint
from molmo2_ros.training.config import TrainConfig, load_config
from molmo2_ros.training.dropout import ResidualDropout
from molmo2_ros.training.lora import merged, trained_share, with_adapters
from molmo2_ros.training.optimizer import make_optimizer, set_rates
from molmo2_ros.training.pipeline import Ahead, ExampleReader, Share
from molmo2_ros.training.recipe.attention import use_stock_attention, use_tree_attention
from molmo2_ros.training.recipe.batch import PackedBatch, collate, forward
from molmo2_ros.training.recipe.loss import step_weight, weighted_loss
from molmo2_ros.training.recipe.messages import TokenTree, TreeWriter
from molmo2_ros.training.sharding import Processes, arithmetic, joined, shard

log = logging.getLogger("train")

# Files beside the weights without which nothing reads a checkpoint.
_COMPANIONS = ("*.json", "*.jinja", "*.txt", "*.model")


class Trainer:
    """A model in training on this process."""

    def __init__(self, config: TrainConfig, out: Path, processes: Processes) -> None:
        declare_missing_ops()
        from transformers import Molmo2ForConditionalGeneration

        self.config, self.out, self.processes = config, out, processes
        self.step = 0
        torch.manual_seed(config.seed)  # adapters begin alike on every process
        self.source = find_checkpoint(config.model)
        facts = vision_facts(self.source, read_config(self.source))
        writer = TreeWriter(PromptTokenizer(self.source), facts)
        self._blank = writer.blank()
        reader = ExampleReader(config, writer)
        numbers = processes.shares(config.data_shares)
        threads = ThreadPoolExecutor(config.data_threads) if config.data_threads else None
        self._threads = threads
        self.shares: dict[int, Share | Ahead] = {}
        for number in numbers:
            share = Share(config, reader, number)
            self.shares[number] = share if threads is None else Ahead(share, threads)
        stock = Molmo2ForConditionalGeneration.from_pretrained(
            self.source, dtype=torch.float32, use_safetensors=True
        )
        if config.activation_checkpointing:
            stock.gradient_checkpointing_enable({"use_reentrant": False})
        self.dropout = ResidualDropout(
            stock, config.dropout, answers_only=config.dropout_on_answers_only
        )
        use_tree_attention(stock)
        self.model = stock if config.lora is None else with_adapters(stock, config.lora)
        self.model.to(processes.device).train()
        shard(self.model, processes, precision=config.precision)
        self.optimizer = make_optimizer(self.model.named_parameters(), config)
        self._parameters = [p for p in self.model.parameters() if p.requires_grad]
        torch.manual_seed(config.seed * 1000 + processes.rank)  # dropout

    # --- one step ------------------------------------------------------------------------------

    def train_step(self) -> dict[str, float]:
        """One step of the optimiser; what is worth a line in the log."""
        packs = list(self._packs())
        weight = sum(float(tree.weights.sum()) for pack in packs for tree in pack)
        divide_by = step_weight(weight, self.processes.device)
        sums = torch.zeros(4, dtype=torch.float64)
        for pack in packs:  # a pack's mask alone may take a gigabyte: one at a time
            sums += self._train_on(self._collated(pack).to(self.processes.device), divide_by)
        self._fill_gradients()
        norm = nn.utils.clip_grad_norm_(self._parameters, self.config.clip_norm)
        rates = set_rates(self.optimizer, self.config, self.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        if self.processes.world > 1:
            sums = sums.to(self.processes.device)
            dist.all_reduce(sums)
        entropy, weight, right, trained = sums.tolist()
        return {
            "loss": entropy / weight,
            "token_accuracy": right / trained,
            "trained_tokens": trained,
            "gradient_norm": float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm),
            **{f"lr_{part}": rate for part, rate in rates.items()},
        }

    def _packs(self) -> Iterator[list[TokenTree]]:
        for _ in range(self.config.sequences_per_step // self.config.data_shares):
            for share in self.shares.values():
                yield next(share)

    def _collated(self, pack: Sequence[TokenTree]) -> PackedBatch:
        """A pack as tensors; processes that share weights run all layers, or others would wait."""
        if self.processes.world > 1 and not any(tree.num_crops for tree in pack):
            pack = [*pack, self._blank]
        return collate(pack)

    def _fill_gradients(self) -> None:
        """Zeros where no sequence of the step had pictures: the optimiser's averages fall alike."""
        for parameter in self._parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)

    def _train_on(self, batch: PackedBatch, divide_by: float) -> torch.Tensor:
        """Add a sequence's gradients; its cross-entropy, weight, right tokens and tokens."""
        is_answer = torch.zeros_like(batch.ids_1S, dtype=torch.bool)
        is_answer[0, batch.readers_L + 1] = True
        # Activation checkpointing computes layers again in the backward pass, dropout with them.
        with self.dropout.on(is_answer):
            with arithmetic(self.processes, self.config.precision):
                logits_LV = forward(self.model, batch)
            loss = weighted_loss(
                logits_LV,
                batch.labels_L,
                batch.weights_L,
                divide_by=divide_by,
                z_weight=self.config.z_weight,
            )
            loss.total.backward()
        seen = [loss.cross_entropy, loss.weight, loss.num_right, len(batch.labels_L)]
        return torch.tensor(seen, dtype=torch.float64)

    # --- the run -------------------------------------------------------------------------------

    def run(self) -> None:
        """Steps to the end of the configuration, then the model for everybody."""
        config = self.config
        started, first = time.monotonic(), self.step
        with self._bar() as bar:
            while self.step < config.steps:
                told = self.train_step()
                bar.update()
                if self.step % config.log_every == 0 or self.step == config.steps:
                    rate = (self.step - first) / (time.monotonic() - started)
                    self._tell({"step": self.step, **told, "steps_per_s": rate}, bar)
                if self.step % config.checkpoint_every == 0 or self.step == config.steps:
                    self.save()
        if self._threads is not None:
            self._threads.shutdown(cancel_futures=True)
        self.write_model()

    def _bar(self) -> tqdm[Any]:
        """Drawn by the first process, where a person watches: nothing of it goes into a file."""
        is_watched = sys.stdout.isatty() and sys.stderr.isatty()
        return tqdm(
            total=self.config.steps,
            initial=self.step,
            desc="training",
            unit="step",
            disable=not (self.processes.is_first and is_watched),
        )

    def _tell(self, told: dict[str, float], bar: tqdm[Any]) -> None:
        if not self.processes.is_first:
            return
        if bar.disable:
            log.info(" ".join(f"{key} {value:.6g}" for key, value in told.items()))
        else:
            bar.set_postfix(loss=told["loss"], accuracy=told["token_accuracy"])
        with (
            checkpoint.writing(f"the figures of step {self.step}", self.out),
            (self.out / "metrics.jsonl").open("a", encoding="utf-8") as file,
        ):
            file.write(json.dumps(told) + "\n")

    def save(self) -> None:
        """A checkpoint to go on from."""
        checkpoint.save(
            self.out,
            self.step,
            self.model,
            self.optimizer,
            {number: share.state_dict() for number, share in self.shares.items()},
            self.processes,
            keep=self.config.keep_checkpoints,
        )

    def resume(self) -> bool:
        """Go on from the last checkpoint, if there is one."""
        path = checkpoint.newest(self.out)
        if path is None:
            return False
        self.step, states = checkpoint.load(path, self.model, self.optimizer, self.processes)
        for number, share in self.shares.items():
            share.load_state_dict(states[number])
        if self.processes.is_first:
            self._forget_lines()
        return True

    def _forget_lines(self) -> None:
        """Leave out of the log what was told of steps that are done again."""
        path = self.out / "metrics.jsonl"
        if not path.exists():
            return
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]  # a kill may cut off the last one
        kept = [line for line in whole if json.loads(line)["step"] <= self.step]
        replace_text(path, "".join(kept))

    def write_model(self) -> None:
        """`model`: a Hugging Face folder, adapters merged into the weights."""
        weights = checkpoint.whole_weights(self.model)
        if not self.processes.is_first:
            return
        from transformers import Molmo2ForConditionalGeneration

        plain = Molmo2ForConditionalGeneration.from_pretrained(self.source, dtype=torch.float32)
        if self.config.lora is not None:
            adapted = with_adapters(plain, self.config.lora)
            adapted.load_state_dict(weights)
            plain = merged(adapted)
        else:
            plain.load_state_dict(weights)
        use_stock_attention(plain)
        partial, target = self.out / ".model", self.out / "model"
        shutil.rmtree(partial, ignore_errors=True)
        with checkpoint.writing(f"the model of step {self.step}", self.out):
            self._write_folder(plain, partial)
            shutil.rmtree(target, ignore_errors=True)
            partial.rename(target)
        log.info("wrote %s", target)

    def _write_folder(self, plain: Any, partial: Path) -> None:
        plain.save_pretrained(partial)
        for pattern in _COMPANIONS:
            for path in self.source.glob(pattern):
                if not (partial / path.name).exists() and "index" not in path.name:
                    shutil.copy(path, partial / path.name)


def train(config_path: Path, out: Path, overrides: Sequence[str] = ()) -> None:
    """Train, or go on with the run that is in `out`.

    Args:
        config_path: YAML file of a TrainConfig.
        out: folder of the run; made if need be.
        overrides: `key=value` each, see load_config.

    Raises:
        ConfigError: an unknown key, or a value that does not fit.
        DataError: a data set that is missing, empty or malformed; a folder that cannot be written.
    """
    # `| tee` takes stdout: lines go there where only that is no terminal.
    to_pipe = sys.stderr.isatty() and not sys.stdout.isatty()
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(message)s",
        datefmt="%H:%M:%S",
        stream=sys.stdout if to_pipe else sys.stderr,
    )
    config = load_config(config_path, overrides)
    with joined() as processes:
        _write_config(config, out, processes)
        trainer = Trainer(config, out, processes)
        if trainer.resume() and processes.is_first:
            log.info("goes on at step %d", trainer.step)
        if processes.is_first:
            log.info("trains %.3g of the weights", trained_share(trainer.model))
        trainer.run()


def _write_config(config: TrainConfig, out: Path, processes: Processes) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        if processes.is_first:
            text = json.dumps(asdict(config), indent=2)
            (out / "config.json").write_text(f"{text}\n", encoding="utf-8")
    except OSError as error:
        raise DataError(
            f"cannot write the run to {out}: {error}; make room or give another folder"
        ) from error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train a Molmo2.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration")
    options = parser.parse_intermixed_args(arguments)
    try:
        train(options.config, options.out, options.overrides)
    except (Molmo2Error, OSError) as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
