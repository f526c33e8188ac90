"""Text to token ids and back, with control tokens kept apart from what people write."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from molmo2_ros.errors import EngineError, QueryError


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlIds:
    """Ids of the tokens that build Molmo2's prompt.

    `im_start` and `im_end` are the visual tokens `<im_start>` and `<im_end>`; the chat's
    `<|im_start|>` and `<|im_end|>` are `turn_start` and `turn_end`.
    """

    bos: int
    turn_start: int
    turn_end: int
    im_patch: int
    im_col: int
    im_start: int
    low_res_im_start: int
    im_end: int
    frame_start: int
    frame_end: int


_VISUAL = {
    "im_patch": "<im_patch>",
    "im_col": "<im_col>",
    "im_start": "<im_start>",
    "low_res_im_start": "<low_res_im_start>",
    "im_end": "<im_end>",
    "frame_start": "<frame_start>",
    "frame_end": "<frame_end>",
}
# Seen by every other visual token, both ways. Source: Molmo2Processor.image_token_ids.
_SEEN_BOTH_WAYS = (*_VISUAL.values(), "<im_low>")


class PromptTokenizer:
    """A byte-level BPE in tokenizer.json's format: the nano's or a Qwen- or OLMo-style one.

    Args:
        folder: holds tokenizer.json, and tokenizer_config.json if it names a bos or eos token.

    Raises:
        EngineError: the file is missing, broken, lacks a token of Molmo2's prompt, or cannot keep
            text apart from control tokens.
    """

    def __init__(self, folder: str | Path) -> None:
        path = Path(folder) / "tokenizer.json"
        try:
            description = json.loads(path.read_text(encoding="utf-8"))
            self._tokenizer = Tokenizer.from_str(json.dumps(description))
        except OSError as error:
            raise EngineError(
                f"{path} cannot be read ({error.strerror}); export the engine again or copy the "
                "checkpoint's tokenizer.json beside it"
            ) from error
        except Exception as error:  # json and tokenizers raise what they like
            raise EngineError(
                f"{path} is not a tokenizer ({error}); export the engine again"
            ) from error
        listed = description.get("added_tokens", [])
        added = {token["content"]: int(token["id"]) for token in listed}
        self._control_ids = frozenset(added.values())
        self._texts: dict[int, str] = {}  # of tokens that were written before
        self._bytes: dict[int, bytes] = {}
        self._text_tokenizer = _without_added_tokens(description, path)
        self._path = path
        self.ids = ControlIds(
            bos=self.token_id(_bos(path.with_name("tokenizer_config.json"))),
            turn_start=self.token_id("<|im_start|>"),
            turn_end=self.token_id("<|im_end|>"),
            **{field: self.token_id(token) for field, token in _VISUAL.items()},
        )
        visual = [added[token] for token in _SEEN_BOTH_WAYS if token in added]
        self._visual_ids = np.array(visual, np.int64)

    @property
    def num_tokens(self) -> int:
        """Size of the vocabulary, control tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def control_ids(self) -> frozenset[int]:
        """All ids that text can never become."""
        return self._control_ids

    def token_id(self, token: str) -> int:
        """The id of one whole token.

        Raises:
            EngineError: the vocabulary lacks it.
        """
        found = self._tokenizer.token_to_id(token)
        if found is None:
            raise EngineError(
                f"{self._path} has no token {token!r}, which Molmo2's prompt needs; use the "
                "tokenizer that belongs to the checkpoint"
            )
        return int(found)

    def encode_text(self, text: str) -> list[int]:
        """Encode what somebody wrote: a control token spelt in it becomes ordinary tokens.

        Raises:
            QueryError: the text holds half a UTF-16 pair, which has no bytes.
        """
        return [token for piece in self.encode_pieces(text) for token in piece]

    def encode_pieces(self, text: str) -> list[list[int]]:
        """Encode what somebody wrote, as `encode_text` does, and say which tokens belong together.

        Returns:
            the tokens of each piece into which the tokenizer splits text before it merges: no token
            reaches over the end of one, whatever stands in the pieces beside it.

        Raises:
            QueryError: the text holds half a UTF-16 pair, which has no bytes.
        """
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise QueryError(
                f"text holds U+{ord(text[error.start]):04X} at {error.start}, which is no "
                "character; write plain text"
            ) from None
        encoding = self._text_tokenizer.encode(text, add_special_tokens=False)
        pieces: dict[int | None, list[int]] = {}
        for token, piece in zip(encoding.ids, encoding.word_ids, strict=True):
            pieces.setdefault(piece, []).append(token)
        return list(pieces.values())

    def encode_template(self, template: str) -> list[int]:
        """Encode our own words, in which control tokens mean what they say; never a user's."""
        ids: list[int] = self._tokenizer.encode(template, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int], *, keep_control: bool = False) -> str:
        """Text of token ids; bytes that form no whole character become U+FFFD.

        Args:
            ids: token ids.
            keep_control: spell control tokens out instead of leaving them out.
        """
        kept = ids if keep_control else [i for i in ids if int(i) not in self._control_ids]
        text: str = self._tokenizer.decode([int(i) for i in kept], skip_special_tokens=False)
        return text

    def token_bytes(self) -> list[bytes]:
        """The bytes that each token writes, by id; none for control tokens and unused ids."""
        vocab: dict[str, int] = self._text_tokenizer.get_vocab()
        written = [b""] * (max(*vocab.values(), *self._control_ids) + 1)
        for token, token_id in vocab.items():
            if all(character in _BYTE_OF for character in token):
                written[token_id] = _written_bytes(token)
        return written

    def decode_one(self, token_id: int) -> str:
        """Text of one token, as `decode` gives it."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self.decode([token_id])
        return text

    def bytes_of(self, token_id: int) -> bytes:
        """What one token adds to a text that is decoded as a whole: a character may span several.

        None for control tokens and ids that the vocabulary lacks.
        """
        written = self._bytes.get(token_id)
        if written is None:
            token = self._tokenizer.id_to_token(token_id)
            if token is None or token_id in self._control_ids:
                written = b""
            else:
                written = _written_bytes(token)
            self._bytes[token_id] = written
        return written

    def is_visual(self, ids: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        """Which ids are of the visual block, whose tokens see each other both ways."""
        return np.isin(ids, self._visual_ids)


def _bos(config_path: Path) -> str:
    """The token that starts a prompt: bos or, lacking one, eos, as Molmo2Processor chooses."""
    config: dict[str, Any] = {}
    if config_path.exists():
        try:
            config = json.loads(config_path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{config_path} cannot be read ({error}); export the engine again"
            ) from error
    token = config.get("bos_token") or config.get("eos_token") or "<|im_end|>"
    return str(token["content"] if isinstance(token, dict) else token)


def _without_added_tokens(description: dict[str, Any], path: Path) -> Tokenizer:
    """The same tokenizer with no added token in its vocabulary: for text that is data."""
    model = description["model"]
    if model.get("type") != "BPE":
        raise EngineError(
            f"{path} is a {model.get('type')} tokenizer, expected byte-level BPE as Molmo2's are"
        )
    added = {token["content"] for token in description.get("added_tokens", [])}
    made = {"".join(pair.split(" ") if isinstance(pair, str) else pair) for pair in model["merges"]}
    if added & made:
        raise EngineError(
            f"{path}: control tokens {sorted(added & made)} are merges of ordinary text, so that "
            "text could turn into them; use the tokenizer that belongs to the checkpoint"
        )
    vocab = {token: i for token, i in model["vocab"].items() if token not in added}
    missing = [token for token in _byte_alphabet().values() if token not in vocab]
    if missing:
        raise EngineError(
            f"{path} lacks {len(missing)} of the 256 bytes, so that some text has no tokens; "
            "expected byte-level BPE as Molmo2's are"
        )
    text_only = {
        **description,
        "added_tokens": [],
        "post_processor": None,
        "model": {**model, "vocab": vocab, "unk_token": None},
    }
    return Tokenizer.from_str(json.dumps(text_only))


def _written_bytes(token: str) -> bytes:
    """A token's bytes; one with characters outside of the byte alphabet stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode("utf-8")


def _byte_alphabet() -> dict[int, str]:
    """The character that stands for each byte in byte-level BPE (GPT-2's table)."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {
        byte: chr(256 + i) for i, byte in enumerate(hidden)
    }


_BYTE_OF = {character: byte for byte, character in _byte_alphabet().items()}
