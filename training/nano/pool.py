"""Rendered stills and clips for training, drawn once and kept in a folder.

A pool is made of chunks, one per world of shapes; a chunk is written as plain .npy files, mapped
into memory by every process that trains. Rendering that was interrupted goes on where it stopped.

Letters: C clips, T frames, J objects.
"""

from __future__ import annotations

import json
import multiprocessing
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from molmo2_ros.errors import DataError
from molmo2_ros.simulation.motion import LabelledClip, sample_clip, sample_still
from molmo2_ros.simulation.world import SceneObject, World

GENERATOR_VERSION = 2  # raise it when the scenes change, so that old pools are not reused
MAX_OBJECTS = 8
ASPECTS = (4 / 3, 1.0, 16 / 9)  # of the cameras whose pictures are squashed to a square
ASPECT_SHARES = (0.6, 0.2, 0.2)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolConfig:
    """How much to render."""

    seed: int = 1000  # of the first world; held-out scenes use seeds from 900000 on
    image_size: int = 168  # pixels, square
    still_worlds: int = 40
    stills_per_world: int = 200
    clip_worlds: int = 50
    clips_per_world: int = 20
    clip_frames: int = 8
    variants: int = 3  # shapes per category of a world


@dataclass(frozen=True, slots=True, kw_only=True)
class _Chunk:
    folder: Path
    world_seed: int
    num_clips: int
    num_frames: int
    image_size: int
    variants: int


def draw_aspect(rng: np.random.Generator) -> float:
    """Width / height of a camera's picture."""
    return float(rng.choice(ASPECTS, p=ASPECT_SHARES))


def render_pool(config: PoolConfig, folder: Path, processes: int) -> None:
    """Render what is missing of a pool.

    Args:
        config: how much.
        folder: where; may hold an unfinished pool of the same configuration.
        processes: how many chunks to render at once.

    Raises:
        DataError: the folder holds a pool of another configuration or generator.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = {"generator": GENERATOR_VERSION, **asdict(config)}
    note = folder / "pool.json"
    if note.exists() and json.loads(note.read_text(encoding="utf-8")) != written:
        raise DataError(
            f"{folder} holds a pool of another configuration than {written}; "
            "remove the folder or choose another one"
        )
    note.write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")
    missing = [c for c in _chunks(config, folder) if not (c.folder / "labels.npz").exists()]
    if not missing:
        return
    with multiprocessing.get_context("spawn").Pool(processes) as workers:
        done = workers.imap_unordered(_render_chunk, missing)
        for _ in tqdm(done, total=len(missing), desc="rendering scenes", unit="world"):
            pass


def _chunks(config: PoolConfig, folder: Path) -> list[_Chunk]:
    stills = [
        _Chunk(
            folder=folder / f"still_{i:04d}",
            world_seed=config.seed + i,
            num_clips=config.stills_per_world,
            num_frames=1,
            image_size=config.image_size,
            variants=config.variants,
        )
        for i in range(config.still_worlds)
    ]
    clips = [
        _Chunk(
            folder=folder / f"clip_{i:04d}",
            world_seed=config.seed + config.still_worlds + i,
            num_clips=config.clips_per_world,
            num_frames=config.clip_frames,
            image_size=config.image_size,
            variants=config.variants,
        )
        for i in range(config.clip_worlds)
    ]
    return stills + clips


def _render_chunk(chunk: _Chunk) -> None:
    chunk.folder.mkdir(exist_ok=True)
    world = World(chunk.world_seed, variants=chunk.variants)
    rng = np.random.default_rng([chunk.world_seed, chunk.num_frames])
    side = chunk.image_size
    shape = (chunk.num_clips, chunk.num_frames, side, side)
    frames = np.zeros((*shape, 3), np.uint8)
    instances = np.zeros(shape, np.uint8)
    fraction = np.zeros((chunk.num_clips, chunk.num_frames, MAX_OBJECTS), np.float32)
    objects = np.full((chunk.num_clips, MAX_OBJECTS, 2), -2, np.int8)
    for i in range(chunk.num_clips):
        size, aspect = (side, side), draw_aspect(rng)
        if chunk.num_frames == 1:
            clip = sample_still(world, rng, size=size, aspect=aspect)
        else:
            clip = sample_clip(world, rng, chunk.num_frames, size=size, aspect=aspect)
        num = len(clip.objects)
        frames[i], instances[i] = clip.frames, clip.instances
        fraction[i, :, :num] = clip.visible_fraction
        objects[i, :num] = [(o.category, o.colour) for o in clip.objects]
    np.save(chunk.folder / "frames.npy", frames)
    np.save(chunk.folder / "instances.npy", instances)
    # Written last: its presence says that the chunk is whole.
    np.savez(chunk.folder / "labels.npz", fraction=fraction, objects=objects)


class Pool:
    """Random access to a rendered pool.

    Raises:
        DataError: the folder holds no such chunks.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._chunks: list[dict[str, npt.NDArray[np.generic]]] = []
        for chunk in sorted(folder.glob(f"{kind}_*")):
            if not (chunk / "labels.npz").exists():
                continue
            labels = np.load(chunk / "labels.npz")
            self._chunks.append(
                {
                    "frames": np.load(chunk / "frames.npy", mmap_mode="r"),
                    "instances": np.load(chunk / "instances.npy", mmap_mode="r"),
                    "fraction": labels["fraction"],
                    "objects": labels["objects"],
                }
            )
        if not self._chunks:
            raise DataError(f"{folder} holds no rendered {kind} chunks; render the pool first")

    def __len__(self) -> int:
        return sum(len(chunk["frames"]) for chunk in self._chunks)

    def draw(self, rng: np.random.Generator) -> LabelledClip:
        """One clip at random; its arrays are views of the files."""
        chunk = self._chunks[int(rng.integers(len(self._chunks)))]
        i = int(rng.integers(len(chunk["frames"])))
        known = [o for o in chunk["objects"][i] if o[0] >= 0]
        return LabelledClip(
            frames=np.asarray(chunk["frames"][i]),
            instances=np.asarray(chunk["instances"][i]),
            visible_fraction=np.asarray(chunk["fraction"][i][:, : len(known)]),
            objects=tuple(SceneObject(category=int(c), colour=int(k)) for c, k in known),
        )
