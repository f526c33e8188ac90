"""Train molmo2-nano from nothing: `torchrun --nproc-per-node 2 -m molmo2_ros.training.nano.train`.

Read downwards: render what is missing, then the stages of the configuration. Steps are counted,
not time, so a run does not depend on the machine's speed; nor does it depend on the number of
processes (rank.py). A stopped run goes on from its last checkpoint.

Letter: G values of all gradients.
"""

from __future__ import annotations

import argparse
import functools
import json
import logging
import os
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.sprites import Sprites
from molmo2_ros.training.nano.batches import Part, StepBatch, StepBatches, step_batches
from molmo2_ros.training.nano.card import CURVES
from molmo2_ros.training.nano.config import StageConfig, TrainConfig, load_config
from molmo2_ros.training.nano.losses import (
    DenseHeads,
    TextLoss,
    TextReader,
    dense_loss,
)
from molmo2_ros.training.nano.model import (
    build_model,
    encode_frames,
    load_checkpoint,
    pooling_windows,
    save_checkpoint,
    to_patches,
)
from molmo2_ros.training.nano.pool import render_pool
from molmo2_ros.training.nano.rank import device_of, shares_of
from molmo2_ros.training.nano.schedule import learning_rate
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer
from molmo2_ros.training.pairs import trained_without_pairs

log = logging.getLogger("train")

VISION_PARTS = ("vision_tower", "multi_modal_projector")
_MUON_PARTS = ("layers", "image_pooling", "image_projector")  # hidden matrices
_HEADS = StageConfig(name="dense heads", steps=200, lr=4e-3, images=16, vision_lr_factor=0.0)
_LOG_EVERY = 50  # steps
_RENDERING_TIMEOUT = timedelta(hours=1)  # the other processes wait while the first one renders


class Trainer:
    """A model in training on this process; gradients are averaged over the shares of all."""

    def __init__(self, config: TrainConfig, folder: Path, device: torch.device) -> None:
        self.config, self.folder, self.device = config, folder, device
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        torch.manual_seed(config.seed)
        self.tokenizer = train_nano_tokenizer(config.model.vocab_size)
        self.model = build_model(config.model, self.tokenizer).to(device).train()
        self.heads = DenseHeads(config.model).to(device)
        self.modules = nn.ModuleDict({"model": self.model, "heads": self.heads})
        self.reader = TextReader(
            self.model, look_layer=config.look_layer, back_layer=config.back_layer
        )
        self.windows = pooling_windows(config.model).to(device)
        self.stage_index, self.step = 0, 0
        self.optimizers: list[torch.optim.Optimizer] = []
        shares = shares_of(self.rank, self.world, config.processes)
        self.steps = StepBatches(config, folder, shares)

    # --- one step ------------------------------------------------------------------------------

    def _encode(self, part: Part) -> tuple[torch.Tensor, torch.Tensor]:
        images = part.frames_KHWC.to(self.device)
        patches = to_patches(images, self.config.model.patch_size)
        return encode_frames(self.model, patches, self.windows)

    def _dense(self, part: Part) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
        assert part.labels is not None
        features, patches = self._encode(part)
        labels = part.labels.to(self.device)
        result = dense_loss(self.heads, patches, features, labels, self.config.model.token_grid)
        seen = {
            "dense": result.loss.detach(),
            "patch": result.patch_accuracy,
            "token": result.token_accuracy,
            "digit": result.digit_accuracy,
        }
        return result.loss, features, seen

    def _images_step(self, part: Part) -> dict[str, torch.Tensor]:
        loss, _, seen = self._dense(part)
        loss.backward()
        return seen

    def _stills_step(self, part: Part) -> dict[str, torch.Tensor]:
        assert part.trees is not None
        dense, features, seen = self._dense(part)
        text = self.reader.loss(part.trees.to(self.device), features, self.heads)
        loss = text.text + self.config.look_weight * text.looks + self.config.dense_weight * dense
        loss.backward()
        return seen | _shown("still", text)

    def _clips_step(self, part: Part) -> dict[str, torch.Tensor]:
        assert part.trees is not None
        assert part.links_BTM2 is not None
        # Clips do not train the vision tower, the stills beside them do: a third of the cost saved.
        with torch.no_grad():
            features, _ = self._encode(part)
        trees, links = part.trees.to(self.device), part.links_BTM2.to(self.device)
        features = features.reshape(len(links), -1, features.shape[-1])
        text = self.reader.loss(trees, features, self.heads, links)
        loss = (
            text.text
            + self.config.look_weight * (text.looks + text.back)
            + self.config.frame_weight * text.frames
            + self.config.link_weight * text.links
        )
        loss.backward()
        gap_share = torch.tensor(part.gap_share)
        return _shown("clip", text) | {"clip_frame": text.frames.detach(), "clip_gap": gap_share}

    def _share_step(self, batch: StepBatch) -> dict[str, torch.Tensor]:
        seen: dict[str, torch.Tensor] = {}
        if batch.images:
            seen |= self._images_step(batch.images)
        if batch.stills:
            seen |= self._stills_step(batch.stills)
        if batch.clips:
            seen |= self._clips_step(batch.clips)
        return seen

    def _train_step(self, stage: StageConfig, batches: list[StepBatch]) -> dict[str, torch.Tensor]:
        parameters = self._trained(stage)
        seen, gradients = [], []
        for batch in batches:
            seen.append(self._share_step(batch))
            gradients.append(take_gradient(parameters))
        gradient_G = functools.reduce(torch.add, gradients)
        if self.world > 1:
            dist.all_reduce(gradient_G)
        put_gradient(parameters, gradient_G / self.config.processes)
        nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        rate = learning_rate(stage, self.step)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate * group["factor"]
            optimizer.step()
            optimizer.zero_grad()
        return seen[0]

    # --- stages --------------------------------------------------------------------------------

    def _trained(self, stage: StageConfig) -> list[nn.Parameter]:
        return [p for _, p in self._named(stage)]

    def _named(self, stage: StageConfig) -> list[tuple[str, nn.Parameter]]:
        """The parameters of a stage: without text only what the dense heads reach.

        A parameter that gets no gradient must not be given to the optimiser: weight decay would
        shrink it.
        """
        named = list(self.modules.named_parameters())
        if stage.stills or stage.clips:
            of_clips = ("heads.frame", "heads.link")
            return [(n, p) for n, p in named if stage.clips or not n.startswith(of_clips)]
        wanted = (*VISION_PARTS, "heads.patch", "heads.token")
        return [(n, p) for n, p in named if any(part in n for part in wanted)]

    def _make_optimizers(self, stage: StageConfig) -> list[torch.optim.Optimizer]:
        """Muon for the hidden matrices, AdamW for embeddings, head, norms and dense heads."""

        def groups(named: list[tuple[str, nn.Parameter]]) -> list[dict[str, Any]]:
            vision = [p for n, p in named if any(part in n for part in VISION_PARTS)]
            rest = [p for n, p in named if not any(part in n for part in VISION_PARTS)]
            both = ((vision, stage.vision_lr_factor), (rest, 1.0))
            return [{"params": p, "factor": factor} for p, factor in both if p]

        named = self._named(stage)
        hidden = [(n, p) for n, p in named if p.dim() == 2 and any(m in n for m in _MUON_PARTS)]
        names = {n for n, _ in hidden}
        muon = torch.optim.Muon(
            groups(hidden),
            stage.lr,
            weight_decay=self.config.weight_decay,
            momentum=0.95,
            adjust_lr_fn="match_rms_adamw",
            ns_steps=5,
        )
        adam = torch.optim.AdamW(
            groups([(n, p) for n, p in named if n not in names]),
            stage.lr,
            betas=(0.9, 0.95),
            weight_decay=0.0,
        )
        return [muon, adam]

    def run(self, workers: int = 0) -> None:
        """Go through the stages from where the checkpoint stands.

        Args:
            workers: processes that make the batches; 0: this one makes them.
        """
        done = sum(stage.steps for stage in self.config.stages[: self.stage_index]) + self.step
        batches = step_batches(self.steps, done, workers)
        for index in range(self.stage_index, len(self.config.stages)):
            stage = self.config.stages[index]
            if index != self.stage_index or not self.optimizers:
                self.stage_index = index
                self.optimizers = self._make_optimizers(stage)
            self._run_stage(stage, batches)
            self.stage_index, self.step, self.optimizers = index + 1, 0, []
            self.save()
        if self.rank == 0:
            save_checkpoint(
                self.model, self.tokenizer, self.folder / "checkpoint", self.config.model.pooling
            )
            log.info("wrote %s", self.folder / "checkpoint")

    def _run_stage(self, stage: StageConfig, batches: Iterator[list[StepBatch]]) -> None:
        seen: dict[str, list[torch.Tensor]] = defaultdict(list)
        started, first = time.monotonic(), self.step
        while self.step < stage.steps:
            for key, value in self._train_step(stage, next(batches)).items():
                seen[key].append(value)
            self.step += 1
            if self.step % _LOG_EVERY == 0 and self.rank == 0:
                rate = (self.step - first) / (time.monotonic() - started)
                means = {k: round(float(sum(v)) / len(v), 4) for k, v in seen.items()}
                self._note(stage, means)
                text = " ".join(f"{k} {v:.3f}" for k, v in means.items())
                log.info("%s %d/%d %.2f steps/s %s", stage.name, self.step, stage.steps, rate, text)
                seen.clear()
            if self.step % self.config.checkpoint_every == 0 and self.step < stage.steps:
                self.save()

    def _note(self, stage: StageConfig, means: dict[str, float]) -> None:
        """Add a line to the run's curves; after a kill some steps are there twice."""
        line = json.dumps({"stage": stage.name, "step": self.step, **means})
        with (self.folder / CURVES).open("a", encoding="utf-8") as file:
            file.write(f"{line}\n")

    # --- checkpoints ---------------------------------------------------------------------------

    def save(self) -> None:
        """Write what the next step depends on besides its number: weights and optimisers."""
        if self.rank != 0:
            return
        tensors = {f"module.{n}": t.contiguous() for n, t in self.modules.state_dict().items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                for key, value in state.items():
                    tensors[f"optimizer.{number}.{index}.{key}"] = torch.as_tensor(value)
        progress = {"stage": self.stage_index, "step": self.step}
        # One file, moved into place at once: a kill leaves the old or the new state, never half.
        partial = self.folder / "state.safetensors.partial"
        save_file(tensors, partial, metadata={"progress": json.dumps(progress)})
        os.replace(partial, self.folder / "state.safetensors")

    def start_from(self, checkpoint: Path) -> None:
        """Take the weights of a finished nano; the dense heads are in no checkpoint.

        Raises:
            ConfigError: its weights are those of another model.
        """
        try:
            weights = load_checkpoint(checkpoint).state_dict()
            self.model.load_state_dict(weights)
        except (OSError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"cannot start from {checkpoint}: {error}; expected a nano of this configuration's "
                "sizes, as a run writes it"
            ) from error

    def resume(self) -> bool:
        """Load the last checkpoint, if there is one."""
        path = self.folder / "state.safetensors"
        if not path.exists():
            return False
        with safe_open(path, framework="pt") as file:
            progress = json.loads(file.metadata()["progress"])
        tensors = load_file(path)
        self.modules.load_state_dict(
            {n[len("module.") :]: t for n, t in tensors.items() if n.startswith("module.")}
        )
        self.stage_index, self.step = progress["stage"], progress["step"]
        if self.step:
            self.optimizers = self._make_optimizers(self.config.stages[self.stage_index])
            for number, optimizer in enumerate(self.optimizers):
                _load_optimizer(optimizer, tensors, f"optimizer.{number}.")
        return True


def _shown(kind: str, text: TextLoss) -> dict[str, torch.Tensor]:
    accuracy = {f"{kind}_{name}": value for name, value in text.accuracy.items()}
    return {f"{kind}_text": text.text.detach(), **accuracy}


def take_gradient(parameters: Sequence[nn.Parameter]) -> torch.Tensor:
    """[G] gradients one after the other, 0 where there is none; the parameters keep none."""
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for parameter in parameters:
        parameter.grad = None
    return torch.cat([gradient.flatten() for gradient in gradients])


def put_gradient(parameters: Sequence[nn.Parameter], gradient_G: torch.Tensor) -> None:
    """Give every parameter its part of what `take_gradient` took."""
    parts = gradient_G.split([parameter.numel() for parameter in parameters])
    for parameter, part in zip(parameters, parts, strict=True):
        parameter.grad = part.view_as(parameter)


def _load_optimizer(
    optimizer: torch.optim.Optimizer, tensors: dict[str, torch.Tensor], prefix: str
) -> None:
    state: dict[int, dict[str, torch.Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        if name.startswith(prefix):
            index, key = name[len(prefix) :].split(".", 1)
            state[int(index)][key] = tensor
    groups = optimizer.state_dict()["param_groups"]
    optimizer.load_state_dict({"state": dict(state), "param_groups": groups})


def from_stage(config: TrainConfig, name: str | None) -> TrainConfig:
    """The stages from one on, behind a short one in which the dense heads learn a finished model.

    Raises:
        ConfigError: there is no such stage.
    """
    names = [stage.name for stage in config.stages]
    if name not in names:
        raise ConfigError(f"no stage {name!r}, expected one of {', '.join(names)}")
    return replace(config, stages=(_HEADS, *config.stages[names.index(name) :]))


def prepare_scenes(config: TrainConfig, folder: Path) -> None:
    """Render the pool and the sprites that are not there yet."""
    render_pool(config.pool, folder / "pool", os.cpu_count() or 1)
    if config.sprite_share:
        log.info("rendering sprites, unless they are there")
        Sprites.cached(folder / "sprites.npz", config.sprite_seed)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Train molmo2-nano on simulated tables.")
    parser.add_argument("--config", type=Path, default=Path("training/configs/nano.yaml"))
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="folder of the run")
    parser.add_argument("--start-from", type=Path, help="checkpoint of a nano to go on with")
    parser.add_argument("--stage", help="with --start-from: the first stage that is left to do")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--workers", type=int, help="processes that make batches; default: with a GPU one a core"
    )
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    config = load_config(options.config)
    if options.start_from:
        config = from_stage(config, options.stage)
        if config.exclude_pairs and not trained_without_pairs(options.start_from):
            log.warning("%s has seen the held-out pairs: they stay in view", options.start_from)
            config = replace(config, exclude_pairs=False)
    options.out.mkdir(parents=True, exist_ok=True)
    rank, world, local_rank = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    shares_of(rank, world, config.processes)  # refuses a wrong number before anything is rendered
    device = device_of(options.device, local_rank, torch.cuda.device_count())
    if rank == 0:
        (options.out / "config.json").write_text(json.dumps(asdict(config), indent=2) + "\n")
        prepare_scenes(config, options.out)
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # TF32
        torch.cuda.set_device(device)
    if world > 1:
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_RENDERING_TIMEOUT)
        dist.barrier()
        torch.set_num_threads(1)
    trainer = Trainer(config, options.out, device)
    if trainer.resume():
        log.info("resumed in stage %d at step %d", trainer.stage_index, trainer.step)
    elif options.start_from:
        trainer.start_from(options.start_from)
    workers = options.workers
    if workers is None:  # on a CPU they would take the cores from the training
        workers = (os.cpu_count() or 1) // world if device.type == "cuda" else 0
    trainer.run(workers)
    if dist.is_initialized():
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
