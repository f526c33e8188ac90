"""A small tokenizer in the released layout: chat tokens inside the head, visual ones outside."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from molmo2_ros.training.phrases import tokenizer_corpus

CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
# In the released order from vocab_size on (151936 + i in the Qwen-style checkpoints).
VISUAL_TOKENS = (
    "<im_start>",
    "<im_end>",
    "<im_patch>",
    "<im_col>",
    "<low_res_im_start>",
    "<|image|>",
    "<im_low>",
    "<frame_start>",
    "<frame_end>",
    "<|video|>",
)


def train_nano_tokenizer(vocab_size: int) -> Tokenizer:
    """Byte-level BPE over the scenes' phrases, one token per digit.

    Args:
        vocab_size: rows of the language model's head; padded with `<|reserved_i|>` up to exactly
            this number, so that the visual tokens start at `vocab_size` as in the released models.

    Returns:
        A tokenizer whose ids below `vocab_size` can be written; those from it on can only be read.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        tokenizer_corpus(),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(CHAT_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    num_used = tokenizer.get_vocab_size()
    tokenizer.add_special_tokens([f"<|reserved_{i}|>" for i in range(vocab_size - num_used)])
    tokenizer.add_special_tokens(list(VISUAL_TOKENS))
    return tokenizer
