"""Every released variant at reduced width, and the 4B's own shapes at two layers, in both forms.

Weights are random. Each engine is compared with transformers: the largest difference of features
and logits, and the tokens of a greedy answer.
"""

import itertools

import numpy as np
import onnx
import pytest
import torch

from benchmarks.random_checkpoint import VARIANTS, make_checkpoint
from molmo2_ros.engines import export
from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.export import OPSETS
from molmo2_ros.engines.parity import drawn_example, reference_arguments, reference_features
from molmo2_ros.prompt.layout import join, suffix_bias
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import generate, prefill
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import clip_inputs

NUM_TOKENS = 12
TOLERANCE = 1e-4  # of the largest value
# What is asked of the 4B's own shapes; its head and embedding are cut, two GB less of noise.
FOUR_B = {"text": {"vocab_size": 2048}, "vision": {"num_hidden_layers": 2}}


class Case:
    """A checkpoint, transformers' model of it, and what that computes for a clip."""

    def __init__(self, name, checkpoint, num_frames):
        self.name = name
        self.checkpoint = checkpoint
        self.model = load_checkpoint(checkpoint)
        self.num_frames = num_frames
        self.engines = {}

    def engine(self, form, folder):
        if form not in self.engines:
            with pytest.MonkeyPatch.context() as patch:
                # The golden example is proven elsewhere, and takes long.
                patch.setattr(export, "NUM_GOLDEN_TOKENS", 1)
                export.export_checkpoint(self.checkpoint, folder, form=form, check=False)
            self.engines[form] = load_engine(folder, threads=2)
        return self.engines[form]

    def inputs(self, engine):
        example = drawn_example()
        frames = [example.frames[index % 4] for index in range(self.num_frames)]
        times_s = np.arange(self.num_frames) / 2
        tokenizer = PromptTokenizer(engine.folder)
        return clip_inputs(engine.manifest.vision, tokenizer, frames, times_s, example.question)


@pytest.fixture(scope="module")
def cases(tmp_path_factory, reduced):
    """A case by name; one is in memory at a time."""
    made = {}

    def case(name):
        if name not in made:
            made.clear()
            folder = tmp_path_factory.mktemp(name)
            variant = name.removesuffix("-own-shapes")
            widths = FOUR_B if variant != name else reduced(variant)
            if variant == name:
                widths["text"]["vocab_size"] = VARIANTS[variant].vocab_size
            num_frames = 1 if variant != name else 13  # 13 of 83 tokens: more than 1,024
            dtype = torch.float32 if variant != name else torch.bfloat16
            make_checkpoint(folder, variant, num_layers=2, dtype=dtype, **widths)
            made[name] = Case(name, folder, num_frames)
        return made[name]

    return case


NAMES = [*VARIANTS, "Molmo2-4B-own-shapes"]


@pytest.fixture(params=itertools.product(NAMES, OPSETS), ids=" ".join, scope="module")
def pair(request, cases, tmp_path_factory):
    """A case, and its engine in one of the forms."""
    name, form = request.param
    case = cases(name)
    return case, case.engine(form, tmp_path_factory.mktemp("engine"))


def close(ours, theirs):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE * np.abs(theirs).max())


def test_features_logits_and_greedy_tokens_equal_those_of_transformers(pair):
    case, engine = pair
    inputs = case.inputs(engine)
    assert inputs.patches_KNC.shape[1:] == (729, 588)  # 378 pixels
    assert inputs.pooling_MW.shape[1] == 9  # 3 x 3
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    close(features_MD, reference_features(case.model, inputs.patches_KNC, inputs.pooling_MW))

    arguments = reference_arguments(inputs)
    prompt = join(inputs.prefix, inputs.suffix)
    if case.num_frames == 13:
        assert len(prompt) > 1024
    with torch.no_grad():
        theirs = case.model.generate(
            **arguments,
            do_sample=False,
            max_new_tokens=NUM_TOKENS,
            eos_token_id=sorted(engine.manifest.tokens.eos_ids),
            return_dict_in_generate=True,
            output_logits=True,
        )
    prefix = prefill(engine, inputs.prefix, features_MD)
    num_suffix = len(inputs.suffix)
    logits_BLV, _ = engine.forward(
        inputs.suffix.ids[None],
        prefix.num_tokens + np.arange(num_suffix)[None],
        suffix_bias(num_suffix, prefix.num_tokens)[None, None],
        prefix.kv,
    )
    close(logits_BLV[0, 0], theirs.logits[0][0].numpy())
    (answer,) = generate(engine, prefix, [inputs.suffix.ids], max_new_tokens=NUM_TOKENS)
    written = theirs.sequences[0, len(prompt) :].tolist()
    end = engine.manifest.tokens.eos_ids
    assert list(answer.ids) == [token for token in written if token not in end]


def test_variant_keeps_what_its_release_has(pair):
    case, _ = pair
    name = case.name
    text, attention = case.model.config.text_config, case.model.model.language_model.layers[0]
    assert case.model.config.vision_config.image_size == [378, 378]
    assert not torch.equal(  # untied
        case.model.lm_head.weight[:64], case.model.model.language_model.embed_tokens.weight[:64]
    )
    if name == "Molmo2-O-7B":
        assert text.num_key_value_heads == text.num_attention_heads
        assert attention.norm_after
        assert attention.self_attn.q_norm.weight.numel() == text.hidden_size
        assert case.model.model.language_model.rope_types == ["unscaled", "scaled"]
    else:
        assert text.num_key_value_heads < text.num_attention_heads
        assert attention.self_attn.q_norm.weight.numel() == text.head_dim
    if not name.endswith("own-shapes"):
        assert text.vocab_size == (100_278 if name == "Molmo2-O-7B" else 151_936)
    else:
        assert (text.hidden_size, text.intermediate_size, text.head_dim) == (2560, 9728, 128)
        assert case.model.config.vision_config.hidden_size == 1152


def test_restrictions_of_tensorrt_hold_for_every_variant(pair):
    _, engine = pair
    fused = engine.manifest.form == "fused"
    for name in ("vision.onnx", "decoder.onnx"):
        graph = onnx.load(engine.folder / name, load_external_data=False).graph
        attention = [node for node in graph.node if node.op_type == "Attention"]
        assert bool(attention) is fused
        assert all(len(node.output) == 1 and len(node.input) <= 4 for node in attention)
        made_of = {node.op_type for node in graph.node}
        assert not made_of & {"NonZero", "Compress", "Unique", "If", "Loop", "Scan"}


def test_vocabulary_is_read_to_its_last_token_and_written_without_the_visual_ones(pair):
    case, engine = pair
    text = case.model.config.text_config
    assert engine.manifest.text.vocab_size == text.vocab_size
    assert engine.manifest.tokens.ids["<im_start>"] == text.vocab_size
    last = torch.tensor([[text.vocab_size + text.additional_vocab_size - 1]])
    with torch.no_grad():
        expected = case.model(input_ids=last).logits.numpy()
    seen = np.zeros((1, 1, 1, 1), np.float32)
    logits, _ = engine.forward(last.numpy(), np.array([[0]]), seen, engine.empty_kv())
    assert logits.shape == (1, 1, text.vocab_size)
    close(logits, expected)
