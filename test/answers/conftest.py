"""Tokenizers of the three families whose answers the grammar follows."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from tokenizers.normalizers import NFC
from tokenizers.trainers import BpeTrainer

from molmo2_ros.answers.grammar import AnswerGrammar
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.training.nano.tokenizer import CHAT_TOKENS, VISUAL_TOKENS

NANO = Path(__file__).parents[2] / "engines" / "nano"
# Contractions, words with one leading mark, digits, marks, newlines. Qwen's digits stand alone,
# those of OLMo (as of cl100k) in groups of up to three.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|{digits}"
    r"| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGITS = {"qwen": r"\p{N}", "olmo": r"\p{N}{1,3}"}
# Some begin and end with marks, so that the tags' own marks merge with them: `">(`, `.</`.
LABELS = ("red mug", "mugs", "(old) mugs", "cups etc.", "caf\u00e9s", "'t Hart's", "mug 12")


@dataclass(frozen=True)
class Family:
    """A tokenizer and the grammar built for it."""

    name: str
    tokenizer: PromptTokenizer
    grammar: AnswerGrammar
    vocab_size: int
    eos: int
    bytes_of: list[bytes]
    token_of: dict[bytes, int]


def answers_to_learn_from():
    rng = np.random.default_rng(5)
    for _ in range(300):
        label = LABELS[rng.integers(len(LABELS))]
        groups = ";".join(
            f"{stamp / 2:.1f} "
            + " ".join(f"{i} {rng.integers(1000):03d} {rng.integers(1001):03d}" for i in (1, 2))
            for stamp in range(rng.integers(1, 30))
        )
        yield f'<tracks coords="{groups}">{label}</tracks>'
        yield f'Counting the <points coords="{groups}">{label}</points> shows a total of 12.'
        yield f'<points coords="{groups}">{label}</points>'
        yield "There are none."
        yield "No tracks available."


def empty_tokenizer(family, merges=()):
    """Single bytes, and what the given pairs of texts are merged to."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokens = [*alphabet, *("".join(pair) for pair in merges)]
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=list(merges)))
    if family == "qwen":
        tokenizer.normalizer = NFC()
    split = pre_tokenizers.Split(Regex(SPLIT.format(digits=DIGITS[family])), behavior="isolated")
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, to_bytes])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def trained_tokenizer(family):
    tokenizer = empty_tokenizer(family)
    trainer = BpeTrainer(
        vocab_size=1200,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(answers_to_learn_from(), trainer)
    return tokenizer


def save_family(name, tokenizer, folder):
    tokenizer.add_special_tokens(list(CHAT_TOKENS))
    tokenizer.add_special_tokens(list(VISUAL_TOKENS))
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": "<|im_end|>"}))
    saved = PromptTokenizer(folder)
    return make_family(name, saved, saved.token_id("<im_start>"))


def make_family(name, tokenizer, vocab_size):
    bytes_of = tokenizer.token_bytes()[:vocab_size]
    eos = tokenizer.ids.turn_end
    return Family(
        name=name,
        tokenizer=tokenizer,
        grammar=AnswerGrammar(tokenizer, vocab_size, frozenset({eos})),
        vocab_size=vocab_size,
        eos=eos,
        bytes_of=bytes_of,
        token_of={text: token for token, text in enumerate(bytes_of) if text},
    )


@pytest.fixture(scope="session")
def families(tmp_path_factory):
    """The shipped nano's tokenizer, a Qwen-style and an OLMo-style one."""
    vocab_size = Manifest.load(NANO, verify=False).text.vocab_size
    made = {"nano": make_family("nano", PromptTokenizer(NANO), vocab_size)}
    for name in DIGITS:
        made[name] = save_family(name, trained_tokenizer(name), tmp_path_factory.mktemp(name))
    return made


@pytest.fixture
def family_with_merges(tmp_path):
    """Make a family whose tokenizer knows single bytes and the merges given."""
    return lambda *merges: save_family("qwen", empty_tokenizer("qwen", merges), tmp_path)


@pytest.fixture(scope="session", params=["nano", "qwen", "olmo"])
def family(request, families):
    return families[request.param]
