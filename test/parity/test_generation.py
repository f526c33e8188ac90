"""Features, prefill logits, attention mask and greedy tokens against transformers' `generate()`.

Three models: the shipped one with its trained weights, and two random ones that differ from it in
everything that a checkpoint may choose.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Molmo2Config, Molmo2ForConditionalGeneration, Molmo2Processor

from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.export import export_checkpoint
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.layout import (
    Prompt,
    clip_prefix,
    images_prefix,
    join,
    prefix_bias,
    question_suffix,
)
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import generate, prefill
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.features import FeatureCache
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden
from molmo2_ros.training.nano.model import save_checkpoint
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer

TOLERANCE = 1e-4  # on features and logits of about 1
NUM_TOKENS = 24
QUESTION = "Track the red mug."
TURN = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
TIMES_MS = [0, 467, 1000, 1533, 2000, 2500, 3033, 3500]


@dataclass
class Pair:
    """One checkpoint twice: as transformers runs it and as we do."""

    model: Any
    processor: Any
    engine: Any
    tokenizer: PromptTokenizer


def pair_of(checkpoint: Path, engine: Path):
    return Pair(
        model=load_checkpoint(checkpoint),
        processor=Molmo2Processor.from_pretrained(checkpoint),
        engine=load_engine(engine, threads=1),
        tokenizer=PromptTokenizer(engine),
    )


def random_pair(folder, *, grid, pooling, num_kv_heads, text):
    """Export a small random model whose norms, too, are random, so that their places matter."""
    tokenizer = train_nano_tokenizer(320)
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    config = Molmo2Config(
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "image_size": [14 * grid, 14 * grid],
            **heads,
        },
        adapter_config={
            "vision_feature_layer": [-1, 0],
            "hidden_size": 32,
            "intermediate_size": 40,
            "text_hidden_size": 48,
            **heads,
        },
        text_config={
            "hidden_size": 48,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": num_kv_heads,
            "head_dim": 16,
            "vocab_size": 320,
            "additional_vocab_size": 128,
            "max_position_embeddings": 2048,
            **text,
        },
        image_patch_id=tokenizer.token_to_id("<im_patch>"),
    )
    torch.manual_seed(7)
    model = Molmo2ForConditionalGeneration(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight") or "layernorm" in name:
            torch.nn.init.normal_(weight, 1.0, 0.2)
        elif weight.dim() == 2 and "embed" not in name:
            torch.nn.init.xavier_uniform_(weight, 0.7 if "projector" in name else 1.0)
        else:
            torch.nn.init.normal_(weight, 0.0, 0.1 if name.endswith("bias") else 0.5)
    save_checkpoint(model, tokenizer, folder / "checkpoint", pooling)
    export_checkpoint(folder / "checkpoint", folder / "engine")
    return pair_of(folder / "checkpoint", folder / "engine")


@pytest.fixture(scope="session")
def nano():
    return pair_of(NANO / "checkpoint", NANO)


@pytest.fixture(scope="session")
def grouped(tmp_path_factory):
    """Qwen3-style: grouped heads; 8 patches pooled in threes, so that windows are padded."""
    return random_pair(
        tmp_path_factory.mktemp("grouped"),
        grid=8,
        pooling=3,
        num_kv_heads=2,
        text={"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}},
    )


@pytest.fixture(scope="session")
def olmo(tmp_path_factory):
    """OLMo-style: norms over all heads and after the block, no grouping, YaRN in one layer only."""
    yarn = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
        "attention_factor": 1.2079,
    }
    return random_pair(
        tmp_path_factory.mktemp("olmo"),
        grid=9,
        pooling=2,
        num_kv_heads=4,
        text={
            "qk_norm_type": "olmo",
            "norm_after": True,
            "rope_parameters": yarn,
            "rope_scaling_layers": [1],
        },
    )


def picture(height, width, seed):
    """Noise over a gradient with a bright square that moves with the seed."""
    random = np.random.default_rng(seed)
    image = np.linspace(30, 220, width)[None, :, None] + random.integers(
        -25, 25, (height, width, 3)
    )
    left = 5 * seed % (width // 2)
    image[height // 4 : height // 2, left : left + width // 4] = (250, 40, 60)
    return np.clip(image, 0, 255).astype(np.uint8)


@dataclass
class Ours:
    features: np.ndarray
    prefix: Prompt
    engine: Any

    def tokens(self, *suffixes, limit=NUM_TOKENS):
        read = prefill(self.engine, self.prefix, self.features)
        ids = [suffix.ids for suffix in suffixes]
        return [list(one.ids) for one in generate(self.engine, read, ids, max_new_tokens=limit)]

    def logits(self, suffix, *, prompt=None, bias=None):
        """Of every token, in one pass."""
        prompt = prompt or join(self.prefix, suffix)
        bias = prefix_bias(prompt.is_visual) if bias is None else bias
        visual = np.zeros((1, len(prompt), self.features.shape[1]), np.float32)
        visual[0, prompt.patch_indices] = self.features
        logits, _ = self.engine.forward(
            prompt.ids[None],
            np.arange(len(prompt))[None],
            bias[None, None],
            self.engine.empty_kv(),
            visual_BSD=visual,
            logit_indices_L=np.arange(len(prompt)),
        )
        return logits[0]


def our_clip(pair, frames, question=QUESTION):
    cache = FeatureCache(pair.engine)
    stamped = [Frame(image=image, stamp_ns=i) for i, image in enumerate(frames)]
    times_s = [time_ms / 1000 for time_ms in TIMES_MS[: len(frames)]]
    prefix = clip_prefix(pair.tokenizer, times_s, cache.tokens_per_frame)
    suffix = question_suffix(pair.tokenizer, question)
    return Ours(cache.frames(stamped), prefix, pair.engine), suffix


def our_images(pair, images):
    cache = FeatureCache(pair.engine)
    seen = cache.images([Frame(image=image, stamp_ns=i) for i, image in enumerate(images)])
    prefix = images_prefix(pair.tokenizer, [one.grid for one in seen])
    features = np.concatenate([one.features_MD for one in seen])
    return Ours(features, prefix, pair.engine), question_suffix(pair.tokenizer, QUESTION)


def their_clip(pair, frames, question=QUESTION, pasted=""):
    return pair.processor(
        text="<|video|>" + pasted + TURN.format(question),
        videos=[np.stack(frames)],
        video_metadata=[
            {
                "total_num_frames": 9999,
                "fps": 1000,
                "frames_indices": TIMES_MS[: len(frames)],
            }
        ],
        do_sample_frames=False,
        return_tensors="pt",
    )


def their_images(pair, images, question=QUESTION):
    labels = [f"Image {i + 1}" for i in range(len(images))] if len(images) > 1 else [""]
    return pair.processor(
        text="".join(label + "<|image|>" for label in labels) + TURN.format(question),
        images=[image.copy() for image in images],  # ours are read-only by now
        return_tensors="pt",
    )


def their_features(pair, theirs):
    with torch.no_grad():
        if "pixel_values" in theirs:
            keys = ("pixel_values", "image_token_pooling", "image_grids")
            output = pair.model.get_image_features(*(theirs[key] for key in keys))
        else:
            keys = ("pixel_values_videos", "video_token_pooling", "video_grids")
            output = pair.model.get_video_features(*(theirs[key] for key in keys))
    return torch.cat(output.pooler_output).numpy()


def their_logits(pair, theirs):
    with torch.no_grad():
        return pair.model(**model_inputs(theirs)).logits[0].numpy()


def their_tokens(pair, theirs, limit=NUM_TOKENS):
    end = sorted(pair.engine.manifest.tokens.eos_ids)
    with torch.no_grad():
        written = pair.model.generate(
            **model_inputs(theirs), do_sample=False, max_new_tokens=limit, eos_token_id=end
        )
    tokens = written[0, theirs["input_ids"].shape[1] :].tolist()
    return tokens[:-1] if tokens[-1] in end else tokens


def model_inputs(theirs):
    return {name: value for name, value in theirs.items() if name != "video_metadata"}


def assert_close(ours, theirs):
    """Equal but for float32's rounding in another order.

    Trained weights amplify it: on the nano's golden clip, features of up to 8.2 lie 8e-5 from those
    of float64 in transformers and in ours alike, and 1.6e-4 from each other.
    """
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE + 3e-5 * np.abs(theirs).max())


CASES = {
    # model, what it sees, height and width of each picture
    "nano, its golden clip": ("nano", "golden", []),
    "nano, 8 frames": ("nano", "clip", [(240, 320)] * 8),
    "nano, 1 frame": ("nano", "clip", [(480, 640)]),
    "nano, crops": ("nano", "images", [(240, 320)]),
    "nano, 2 images": ("nano", "images", [(168, 168), (100, 60)]),
    "padded windows, 1 frame": ("grouped", "clip", [(120, 120)]),
    "padded windows, 3 narrow frames": ("grouped", "clip", [(201, 97)] * 3),
    "padded windows, 8 wide frames": ("grouped", "clip", [(64, 333)] * 8),
    "grouped heads, 3 images": ("grouped", "images", [(60, 80), (130, 40), (60, 80)]),
    "olmo norms, 3 frames": ("olmo", "clip", [(90, 160)] * 3),
    "olmo norms, padded crops": ("olmo", "images", [(150, 200)]),
}


@pytest.fixture(scope="module", params=CASES.values(), ids=CASES.keys())
def case(request):
    """(pair, ours, our suffix, theirs) of one case."""
    model, kind, sizes = request.param
    pair = request.getfixturevalue(model)
    pictures = [picture(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    if kind == "golden":
        golden = Golden.load(NANO / GOLDEN_FILE)
        asked = (pair, list(golden.frames), golden.question)
        return pair, *our_clip(*asked), their_clip(*asked)
    if kind == "clip":
        return pair, *our_clip(pair, pictures), their_clip(pair, pictures)
    return pair, *our_images(pair, pictures), their_images(pair, pictures)


def test_features_equal(case):
    pair, ours, _, theirs = case
    assert_close(ours.features, their_features(pair, theirs))


def test_prefill_logits_equal_at_every_token(case):
    pair, ours, suffix, theirs = case
    assert_close(ours.logits(suffix), their_logits(pair, theirs))


def test_greedy_tokens_equal(case):
    pair, ours, suffix, theirs = case
    assert ours.tokens(suffix) == [their_tokens(pair, theirs)]


def test_mask_equals_the_one_that_generate_uses(case):
    pair, ours, suffix, theirs = case
    masks = []

    def keep(_module, _arguments, named):
        masks.append(named["attention_mask"])

    attention = pair.model.model.language_model.layers[0].self_attn
    hook = attention.register_forward_pre_hook(keep, with_kwargs=True)
    their_tokens(pair, theirs, limit=1)
    hook.remove()
    assert masks[0].dtype == torch.bool
    prompt = join(ours.prefix, suffix)
    assert np.array_equal(prefix_bias(prompt.is_visual) == 0, masks[0][0, 0].numpy())


@pytest.mark.parametrize("model", ["nano", "grouped", "olmo"])
def test_parity_fails_under_a_causal_mask(model, request):
    pair = request.getfixturevalue(model)
    frames = [picture(120, 160, seed) for seed in range(3)]
    (ours, suffix), theirs = our_clip(pair, frames), their_clip(pair, frames)
    causal = prefix_bias(np.zeros(len(ours.prefix) + len(suffix), bool))
    difference = np.abs(ours.logits(suffix, bias=causal) - their_logits(pair, theirs))
    assert difference[-1].max() > 100 * TOLERANCE


@pytest.mark.parametrize("model", ["nano", "grouped", "olmo"])
def test_parity_fails_with_the_clip_inside_the_user_turn(model, request):
    pair = request.getfixturevalue(model)
    frames = [picture(120, 160, seed) for seed in range(3)]
    (ours, suffix), theirs = our_clip(pair, frames), their_clip(pair, frames)
    header = len(pair.tokenizer.encode_template("<|im_start|>user\n"))
    bos, clip = piece(ours.prefix, 0, 1), piece(ours.prefix, 1, None)
    wrong = join(bos, piece(suffix, 0, header), clip, piece(suffix, header, None))
    assert sorted(wrong.ids) == sorted(theirs["input_ids"][0].tolist())
    difference = np.abs(ours.logits(suffix, prompt=wrong) - their_logits(pair, theirs))
    assert difference[-1].max() > 100 * TOLERANCE


def piece(prompt, start, stop):
    """The tokens of a prompt from `start` to `stop`."""
    stop = len(prompt) if stop is None else stop
    inside = (prompt.patch_indices >= start) & (prompt.patch_indices < stop)
    return Prompt(
        ids=prompt.ids[start:stop],
        is_visual=prompt.is_visual[start:stop],
        patch_indices=prompt.patch_indices[inside] - start,
    )


@pytest.mark.parametrize("model", ["nano", "grouped", "olmo"])
def test_questions_of_different_lengths_in_one_batch_equal_each_alone(model, request):
    pair = request.getfixturevalue(model)
    frames = [picture(120, 160, seed) for seed in range(3)]
    questions = ["Point to the banana.", "How many red mugs are there?", "Track it."]
    ours, _ = our_clip(pair, frames)
    together = ours.tokens(*(question_suffix(pair.tokenizer, text) for text in questions))
    alone = [their_tokens(pair, their_clip(pair, frames, text)) for text in questions]
    assert together == alone


class Overheard:
    """An engine, and the token ids that it was given to read."""

    def __init__(self, engine):
        self._engine = engine
        self.ids = []

    def forward(self, ids_BS, *arguments, **named):
        self.ids += ids_BS[0].tolist()
        return self._engine.forward(ids_BS, *arguments, **named)

    def __getattr__(self, name):
        return getattr(self._engine, name)


def assert_answered_as_by_generate(pair, ask, theirs):
    """Ask through the front door: the prompt and the answer are theirs, token for token.

    `ask` gets a Grounder.
    """
    heard = Overheard(pair.engine)
    answer = ask(Grounder(heard, drafted=False))
    prompt = theirs["input_ids"][0].tolist()
    written = their_tokens(pair, theirs)
    assert heard.ids[: len(prompt)] == prompt
    assert answer.timing.num_prompt_tokens == len(prompt)
    assert answer.text == pair.tokenizer.decode(written)
    assert answer.timing.num_answer_tokens == len(written)
    drafting = Grounder(pair.engine)
    assert [ask(drafting).text for _ in range(2)] == [answer.text] * 2


SAID = [
    Subtitle(start_s=0.2, end_s=0.9, text="Take the cup."),
    Subtitle(start_s=60, end_s=61, text="Nobody hears this."),
]
PASTED = "subtitle\n0.2 - 0.9 Take the cup.\n"


@pytest.mark.parametrize(
    ("question", "num_frames", "asked", "said"),
    [
        # what people write, frames that it reads, what Molmo2 is asked, subtitles
        ("Is the drawer open?", 3, "Is the drawer open?", ()),
        ("ask[style video_short_answer]: Is it open?", 3, "video_short_answer: Is it open?", ()),
        ("What did she say?", 3, "What did she say?", SAID),
        ("Describe this video in detail", 3, "Describe this video in detail", ()),
        ("caption: long", 3, "Write a long caption", SAID),
        ("caption: short", 3, "Brief Caption:", ()),
        ("point[clip]: the red mug", 3, "Point to the red mug.", ()),
        ("count[clip]: red mugs", 3, "How many red mugs are there?", ()),
        ("point: the red mug", 1, "Point to the red mug.", ()),
        ("track[1 fps]: the red mug", 3, "Track the red mug at 1 FPS", ()),
    ],
)
def test_what_is_asked_of_a_clip_is_answered_as_by_generate(
    grouped, question, num_frames, asked, said
):
    pictures = [picture(120, 160, seed) for seed in range(3)]
    stamped = zip(pictures, TIMES_MS, strict=False)
    clip = Clip(tuple(Frame(image=image, stamp_ns=1_000_000 * ms) for image, ms in stamped))

    def ask(grounder):
        query = parse_query(question)
        return grounder.answer(clip, query, subtitles=said, max_new_tokens=NUM_TOKENS)

    theirs = their_clip(grouped, pictures[-num_frames:], asked, PASTED if said else "")
    assert_answered_as_by_generate(grouped, ask, theirs)


@pytest.mark.parametrize(
    ("question", "num_images", "asked"),
    [
        ("Compare these images.", 2, "Compare these images."),
        ("caption: short", 2, "Brief Caption:"),
        ("Point to the boats", 2, "Point to the boats."),
        ("count: boats", 2, "How many boats are there in all images?"),
        ("count: boats", 1, "How many boats are there?"),
    ],
)
def test_what_is_asked_of_images_is_answered_as_by_generate(olmo, question, num_images, asked):
    pictures = [picture(100, 140, 1), picture(130, 60, 2)][:num_images]
    frames = [Frame(image=image, stamp_ns=index) for index, image in enumerate(pictures)]

    def ask(grounder):
        return grounder.answer_images(frames, parse_query(question), max_new_tokens=NUM_TOKENS)

    assert_answered_as_by_generate(olmo, ask, their_images(olmo, pictures, asked))
