"""Our patches, windows, token ids and visual block against transformers' Molmo2Processor."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from torch.nn.functional import interpolate

from molmo2_ros.prompt.crops import CropSettings, choose_tiling, image_patches
from molmo2_ros.prompt.layout import (
    clip_prefix,
    images_prefix,
    join,
    prefix_bias,
    question_suffix,
)
from molmo2_ros.prompt.patches import clip_patches, clip_pooling, frame_pooling
from molmo2_ros.prompt.resize import resize_bilinear
from molmo2_ros.prompt.subtitles import Subtitle, subtitle_text
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.training.nano.model import CHAT_TEMPLATE
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer

QUESTION = "Track the red mug."
TURN = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture(scope="module")
def nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano")
    train_nano_tokenizer(448).save(str(folder / "tokenizer.json"))
    return folder


def picture(height, width, seed=0):
    """Noise over a gradient: every value and many ties of rounding."""
    random = np.random.default_rng(seed)
    slope = np.linspace(0, 255, width)[None, :, None] + np.zeros((height, 1, 3))
    return np.clip(slope + random.integers(-90, 90, (height, width, 3)), 0, 255).astype(np.uint8)


def assert_same_prompt(prompt, theirs):
    assert prompt.ids.tolist() == theirs["input_ids"][0].tolist()
    assert prompt.is_visual.tolist() == (theirs["mm_token_type_ids"][0] == 1).tolist()


@pytest.mark.parametrize(
    ("height", "width"), [(480, 640), (240, 320), (640, 480), (117, 333), (9, 7)]
)
@pytest.mark.parametrize("wanted", [(112, 112), (168, 168), (378, 378), (350, 798)])
def test_resized_bytes_equal_torch_without_antialias(height, width, wanted):
    image = picture(height, width)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    theirs = interpolate(tensor, wanted, mode="bilinear", antialias=False).round().clamp(0, 255)

    assert np.array_equal(resize_bilinear(image, *wanted), theirs[0].permute(1, 2, 0).byte())


@pytest.mark.parametrize(("height", "width"), [(168, 168), (336, 336), (224, 448), (1080, 1920)])
def test_resized_bytes_equal_torch_where_many_values_lie_on_a_tie(height, width):
    # Scales with small fractions: up to one value in four is an exact .5 before rounding.
    random = np.random.default_rng(1)
    image = random.integers(0, 256, (height, width, 3), np.uint8)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    for wanted in [(168, 168), (378, 378), (112, 112)]:
        theirs = interpolate(tensor, wanted, mode="bilinear", antialias=False).round()
        assert np.array_equal(resize_bilinear(image, *wanted), theirs[0].permute(1, 2, 0).byte())


VIDEO_CASES = [
    # image size, pooling, frames, height, width
    (112, (2, 2), 8, 240, 320),  # 8x8 patches, exact windows
    (112, (3, 3), 3, 240, 320),  # 8 = 2 * 3 + 2: padded by one
    (168, (2, 2), 1, 480, 640),
    (168, (3, 3), 2, 168, 168),  # no resizing at all
    (126, (2, 2), 2, 97, 201),  # 9 patches in twos
    (140, (4, 4), 2, 300, 200),  # 10 patches in fours: padded by two, portrait
    (112, (2, 3), 2, 64, 640),  # oblong windows
    (378, (3, 3), 1, 480, 640),  # the released size
]


@pytest.mark.parametrize(("image_size", "pool", "num_frames", "height", "width"), VIDEO_CASES)
def test_clip_equals_the_video_processor(
    nano, make_processor, image_size, pool, num_frames, height, width
):
    frames = [picture(height, width, seed) for seed in range(num_frames)]
    times_ms = [0, 467, 1000, 1533, 2000, 2500, 3033, 3500][:num_frames]
    processor = make_processor(
        Tokenizer.from_file(str(nano / "tokenizer.json")),
        image_size=image_size,
        video_pooling=pool,
    )
    theirs = processor(
        text="<|video|>" + TURN,
        videos=[np.stack(frames)],
        video_metadata=[{"total_num_frames": 9999, "fps": 1000, "frames_indices": times_ms}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    grid = image_size // 14

    patches = clip_patches(frames, image_size, 14)
    pooling = clip_pooling(num_frames, grid, pool)
    tokenizer = PromptTokenizer(nano)
    prefix = clip_prefix(
        tokenizer, [time_ms / 1000 for time_ms in times_ms], len(frame_pooling(grid, pool))
    )
    prompt = join(prefix, question_suffix(tokenizer, QUESTION))

    assert patches.dtype == np.float32
    assert np.array_equal(patches, theirs["pixel_values_videos"].numpy())
    assert np.array_equal(pooling, theirs["video_token_pooling"].numpy())
    assert_same_prompt(prompt, theirs)
    assert len(prompt.patch_indices) == len(pooling)


IMAGE_CASES = [
    # image size, max crops, margins, pooling, sizes (height, width)
    (112, 8, (1, 1), (2, 2), [(240, 320)]),
    (112, 8, (1, 1), (2, 2), [(480, 640)]),
    (112, 24, (1, 1), (2, 2), [(480, 640)]),
    (112, 8, (1, 1), (2, 2), [(720, 1280)]),
    (112, 24, (1, 1), (2, 2), [(720, 1280)]),
    (112, 8, (1, 1), (2, 2), [(640, 360)]),  # portrait
    (112, 8, (1, 1), (2, 2), [(20, 15)]),  # smaller than the margins
    (112, 24, (1, 1), (2, 2), [(30, 900)]),  # a strip
    (112, 8, (2, 1), (2, 2), [(240, 320)]),  # windows that straddle tiles, uneven margins
    (112, 8, (0, 0), (2, 2), [(240, 320)]),
    (126, 8, (1, 2), (2, 2), [(300, 300)]),  # odd number of patches: padded windows
    (112, 8, (1, 1), (3, 3), [(240, 320)]),
    (168, 8, (1, 1), (2, 2), [(480, 640)]),  # the nano's
    (112, 1, (1, 1), (2, 2), [(480, 640)]),
    (112, 8, (1, 1), (2, 2), [(240, 320), (480, 200)]),  # several images
    (112, 8, (1, 1), (2, 2), [(240, 320), (100, 100), (240, 320)]),  # grouped by size in HF
    (378, 8, (4, 4), (2, 2), [(480, 640)]),  # the released sizes
    (378, 24, (4, 4), (2, 2), [(720, 1280)]),
]


@pytest.mark.parametrize(("image_size", "max_crops", "margins", "pool", "sizes"), IMAGE_CASES)
@pytest.mark.parametrize("column_tokens", [False, True])
def test_images_equal_the_image_processor(
    nano, make_processor, image_size, max_crops, margins, pool, sizes, column_tokens
):
    images = [picture(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    processor = make_processor(
        Tokenizer.from_file(str(nano / "tokenizer.json")),
        image_size=image_size,
        image_pooling=pool,
        max_crops=max_crops,
        overlap_margins=margins,
        use_single_crop_col_tokens=column_tokens,
    )
    labels = [f"Image {i + 1}" for i in range(len(images))] if len(images) > 1 else [""]
    theirs = processor(
        text="".join(label + "<|image|>" for label in labels) + TURN,
        images=images,
        return_tensors="pt",
    )

    settings = CropSettings(
        image_size=image_size,
        patch_size=14,
        pooling=pool,
        max_crops=max_crops,
        overlap_margins=margins,
        use_single_crop_col_tokens=column_tokens,
    )
    ours = image_patches(images, settings)
    tokenizer = PromptTokenizer(nano)
    prefix = images_prefix(tokenizer, ours.grids, use_single_crop_col_tokens=column_tokens)
    prompt = join(prefix, question_suffix(tokenizer, QUESTION))

    assert np.array_equal(ours.patches_KNC, theirs["pixel_values"].numpy())
    assert np.array_equal(ours.pooling_MW, theirs["image_token_pooling"].numpy())
    assert [[*grid.low, *grid.high] for grid in ours.grids] == theirs["image_grids"].tolist()
    assert_same_prompt(prompt, theirs)
    assert len(prompt.patch_indices) == len(ours.pooling_MW)


@pytest.mark.parametrize("max_crops", [1, 4, 8, 24])
def test_tiling_equals_theirs_for_every_shape(max_crops):
    from transformers.models.molmo2.image_processing_molmo2 import select_tiling

    random = np.random.default_rng(0)
    shapes = [(0, 0), (-4, 60), (60, 0), *random.integers(1, 3000, (300, 2)).tolist()]
    for height, width in shapes:
        for tile in (84, 266):
            theirs = select_tiling(height, width, tile, max_crops)
            assert choose_tiling(height, width, tile, max_crops) == theirs


def test_subtitles_equal_a_template_that_pastes_them_after_the_frames(nano, make_processor):
    processor = make_processor(Tokenizer.from_file(str(nano / "tokenizer.json")))
    subtitles = [Subtitle(start_s=0.2, end_s=0.9, text="Now take the red mug.")]
    times_s = [0.0, 0.5]
    pasted = subtitle_text(times_s, subtitles)
    theirs = processor(
        text=f"<|video|>{pasted}{TURN}",
        videos=[np.stack([picture(64, 64), picture(64, 64, 1)])],
        video_metadata=[{"total_num_frames": 9, "fps": 10, "frames_indices": [0, 5]}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    tokenizer = PromptTokenizer(nano)
    prompt = join(
        clip_prefix(tokenizer, times_s, 16, subtitles), question_suffix(tokenizer, QUESTION)
    )

    assert_same_prompt(prompt, theirs)


def test_shipped_chat_template_renders_our_layout(nano, make_processor):
    processor = make_processor(Tokenizer.from_file(str(nano / "tokenizer.json")))
    tokenizer = PromptTokenizer(nano)
    image = picture(64, 64)
    text = {"type": "text", "text": QUESTION}
    for parts, visuals in [
        ([text, {"type": "video"}], "<|video|>"),
        ([{"type": "image"}, text], "<|image|>"),
        ([{"type": "image"}, {"type": "image"}, text], "Image 1<|image|>Image 2<|image|>"),
    ]:
        rendered = processor.apply_chat_template(
            [{"role": "user", "content": parts}],
            chat_template=CHAT_TEMPLATE,
            add_generation_prompt=True,
        )
        assert rendered == visuals + TURN

    settings = CropSettings(image_size=112, patch_size=14, pooling=(2, 2), overlap_margins=(1, 1))
    theirs = processor(text=rendered, images=[image, image], return_tensors="pt")
    prefix = images_prefix(tokenizer, image_patches([image, image], settings).grids)
    assert_same_prompt(join(prefix, question_suffix(tokenizer, QUESTION)), theirs)


def test_mask_equals_the_mask_that_transformers_builds(nano):
    from transformers import Molmo2Config
    from transformers.masking_utils import create_causal_mask

    tokenizer = PromptTokenizer(nano)
    prompt = join(clip_prefix(tokenizer, [0.0, 0.5], 4), question_suffix(tokenizer, QUESTION))
    config = Molmo2Config().get_text_config()
    config._attn_implementation = "eager"
    theirs = create_causal_mask(
        config=config,
        inputs_embeds=torch.zeros(1, len(prompt), 8),
        attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
        past_key_values=None,
        position_ids=torch.arange(len(prompt))[None],
        block_sequence_ids=torch.where(torch.from_numpy(prompt.is_visual)[None], 0, -1),
    )

    assert np.array_equal(prefix_bias(prompt.is_visual) == 0, theirs[0, 0].numpy() == 0)


def test_clip_inside_the_user_turn_would_give_other_ids(nano, make_processor):
    processor = make_processor(Tokenizer.from_file(str(nano / "tokenizer.json")))
    theirs = processor(
        text=TURN.replace(QUESTION, "<|video|>" + QUESTION),
        videos=[np.stack([picture(64, 64)])],
        video_metadata=[{"total_num_frames": 1, "fps": 1, "frames_indices": [0]}],
        do_sample_frames=False,
        return_tensors="pt",
    )
    tokenizer = PromptTokenizer(nano)
    prompt = join(clip_prefix(tokenizer, [0.0], 16), question_suffix(tokenizer, QUESTION))

    assert sorted(prompt.ids) == sorted(theirs["input_ids"][0].tolist())
    assert prompt.ids.tolist() != theirs["input_ids"][0].tolist()
