"""What a Molmo2 has to multiply, read and keep, from its dimensions: weights, arithmetic, cache."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest

_CONFIG = "config.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tower:
    """The vision tower, as far as its layers are used, and the connector behind it."""

    width: int = 1152
    mlp: int = 4304
    heads: int = 16
    layers: int = 25  # of the 27 that SigLIP2 has
    patches: int = 729  # of one view
    patch_values: int = 588  # 14 x 14 pixels in three colours
    pooled_layers: int = 2  # whose outputs the connector reads side by side
    pool_width: int = 1152
    tokens: int = 81  # visual tokens of a video frame


@dataclass(frozen=True, slots=True, kw_only=True)
class Architecture:
    """Dimensions of one Molmo2.

    Source: Molmo2's converter to transformers; the released files were not opened.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    mlp: int
    projector: int  # inner width of the connector's last part
    vocab: int  # tokens that can be written
    read_only_vocab: int = 128  # tokens that can only be read
    tower: Tower = Tower()
    markers_per_frame: int = 2  # frame_start and frame_end

    @property
    def block_weights(self) -> int:
        """Weights of the language model's layers, which every token is multiplied with."""
        attention = 2 * self.hidden * self.head_dim * (self.heads + self.kv_heads)
        return self.layers * (attention + 3 * self.hidden * self.mlp)

    @property
    def head_weights(self) -> int:
        """Weights that only tokens are multiplied with whose logits are wanted."""
        return self.hidden * self.vocab

    @property
    def embedding_weights(self) -> int:
        """Weights of the table that is looked up, never multiplied."""
        return self.hidden * (self.vocab + self.read_only_vocab)

    @property
    def tower_weights(self) -> int:
        """Weights of the vision layers in use and of the patch embedding."""
        tower = self.tower
        per_layer = 4 * tower.width**2 + 2 * tower.width * tower.mlp
        return tower.layers * per_layer + tower.patch_values * tower.width

    @property
    def connector_weights(self) -> int:
        """Weights of the attention that pools patches and of the projector."""
        tower = self.tower
        pool = 3 * tower.pooled_layers * tower.width * tower.pool_width + tower.pool_width**2
        return pool + self.projector * (2 * tower.pool_width + self.hidden)

    @property
    def kv_values_per_token(self) -> int:
        """Keys and values that the cache keeps of one token."""
        return 2 * self.layers * self.kv_heads * self.head_dim

    @property
    def frame_tokens(self) -> int:
        """Tokens of a video frame with its markers, without the text of its stamp."""
        return self.tower.tokens + self.markers_per_frame

    def tower_flops(self) -> int:
        """Arithmetic of the vision tower for one view."""
        tower = self.tower
        attention = 4 * tower.layers * tower.width * tower.patches**2
        return 2 * self.tower_weights * tower.patches + attention

    def connector_flops(self) -> int:
        """Arithmetic between the tower's outputs and a frame's visual tokens."""
        tower = self.tower
        per_patch = 2 * tower.pooled_layers * tower.width * tower.pool_width
        pool = tower.patches * per_patch + tower.tokens * (
            per_patch // 2
            + tower.pool_width**2
            + self.projector * (2 * tower.pool_width + self.hidden)
        )
        return 2 * pool + 4 * tower.patches * tower.pool_width

    def text_flops(self, new_tokens: int, all_tokens: int, logits: int) -> int:
        """Arithmetic of the language model; hidden pairs of tokens are computed and masked.

        Args:
            new_tokens: that are read in this pass.
            all_tokens: that they attend to, themselves included.
            logits: tokens of which the next one is wanted.
        """
        attention = 4 * self.layers * self.heads * self.head_dim * new_tokens * all_tokens
        return 2 * (self.block_weights * new_tokens + self.head_weights * logits) + attention


MODELS = {
    model.name: model
    for model in (
        Architecture(
            name="Molmo2-4B",
            hidden=2560,
            layers=36,
            heads=32,
            kv_heads=8,
            head_dim=128,
            mlp=9728,
            projector=9728,
            vocab=151_936,
        ),
        Architecture(
            name="Molmo2-8B",
            hidden=4096,
            layers=36,
            heads=32,
            kv_heads=8,
            head_dim=128,
            mlp=12_288,
            projector=12_288,
            vocab=151_936,
        ),
        Architecture(
            name="Molmo2-O-7B",
            hidden=4096,
            layers=32,
            heads=32,
            kv_heads=32,
            head_dim=128,
            mlp=11_008,
            projector=11_008,
            vocab=100_278,
        ),
    )
}


def find_model(name: str) -> Architecture:
    """A model by its name (a hub's "allenai/" before it and case do not matter) or engine folder.

    Raises:
        EngineError: neither; the message lists the names. Or a folder that holds no engine.
    """
    wanted = name.removeprefix("allenai/").casefold().replace("-videopoint", "")
    for known, model in MODELS.items():
        if wanted == known.casefold():
            return model
    if wanted in ("nano", "molmo2-nano"):
        return of_engine(NANO)
    if Path(name).is_dir():
        return of_engine(Path(name))
    raise EngineError(
        f"{name!r} is no known model and no folder, expected one of {', '.join(MODELS)}, "
        "molmo2-nano, or an engine folder"
    )


def of_engine(folder: Path) -> Architecture:
    """Dimensions of an exported engine, from its manifest and the checkpoint's configuration.

    Raises:
        EngineError: no engine, no config.json in it, or one that is not of a Molmo2.
    """
    manifest = Manifest.load(folder, verify=False)
    path = folder / _CONFIG
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        text, tower = config["text_config"], _tower(config, manifest)
        return Architecture(
            name=manifest.name,
            hidden=manifest.text.hidden_size,
            layers=manifest.text.num_layers,
            heads=text["num_attention_heads"],
            kv_heads=manifest.text.num_kv_heads,
            head_dim=manifest.text.head_dim,
            mlp=text["intermediate_size"],
            projector=config["adapter_config"]["intermediate_size"],
            vocab=manifest.text.vocab_size,
            read_only_vocab=text["additional_vocab_size"],
            tower=tower,
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(
            f"{path} does not tell the model's dimensions ({error!r}), expected the checkpoint's "
            "own; export the checkpoint again"
        ) from error


def _tower(config: Mapping[str, Any], manifest: Manifest) -> Tower:
    """The vision tower of a checkpoint's configuration."""
    vision, adapter, facts = config["vision_config"], config["adapter_config"], manifest.vision
    side = facts.image_size // facts.patch_size
    down, across = facts.video_pooling
    used = [layer % vision["num_hidden_layers"] for layer in adapter["vision_feature_layer"]]
    return Tower(
        width=vision["hidden_size"],
        mlp=vision["intermediate_size"],
        heads=vision["num_attention_heads"],
        layers=max(used) + 1,
        patches=side**2,
        patch_values=facts.patch_size**2 * vision["num_channels"],
        pooled_layers=len(used),
        pool_width=adapter["hidden_size"],
        tokens=-(-side // down) * -(-side // across),
    )
