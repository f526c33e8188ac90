"""Two tokenizers in the layouts that Molmo2 comes with: the nano's, and a Qwen-style one."""

import json

import pytest
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.normalizers import NFC
from tokenizers.trainers import BpeTrainer

from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.training.nano.tokenizer import VISUAL_TOKENS, train_nano_tokenizer

# Splits as Qwen2's: contractions, words with one leading mark, single digits, marks, newlines.
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def qwen_style_tokenizer():
    """All control tokens are added tokens after the vocabulary, some of them not "special"."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    lines = ["user\nTrack the red mug.", "assistant\nimage im_patch frame_start think im_end"] * 9
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        lines, BpeTrainer(vocab_size=320, initial_alphabet=alphabet, show_progress=False)
    )
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>")])
    tokenizer.add_special_tokens(list(VISUAL_TOKENS))
    return tokenizer


def write_tokenizer(folder, tokenizer, **config):
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def tokenizer_folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tokenizers")
    return {
        "nano": write_tokenizer(
            root / "nano", train_nano_tokenizer(448), bos_token="<|im_end|>", eos_token="<|im_end|>"
        ),
        "qwen": write_tokenizer(
            root / "qwen",
            qwen_style_tokenizer(),
            bos_token=None,
            eos_token={"content": "<|im_end|>"},
        ),
    }


@pytest.fixture(scope="session", params=["nano", "qwen"])
def tokenizer(request, tokenizer_folders):
    return PromptTokenizer(tokenizer_folders[request.param])


@pytest.fixture(scope="session")
def nano_tokenizer(tokenizer_folders):
    return PromptTokenizer(tokenizer_folders["nano"])
