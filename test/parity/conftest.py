"""Hugging Face's Molmo2 side: makes transformers importable without torchvision's compiled half."""

import pytest

from molmo2_ros.engines.torchvision_ops import declare_missing_ops

declare_missing_ops()  # before anything imports transformers

from transformers import (  # noqa: E402
    Molmo2ImageProcessor,
    Molmo2Processor,
    Molmo2VideoProcessor,
    PreTrainedTokenizerFast,
)

# A video processor made by hand neither rescales nor normalises unless it is told to, silently.
_PREPARE = {"do_resize": True, "do_rescale": True, "do_normalize": True}


@pytest.fixture(scope="session")
def make_processor():
    """Build a Molmo2Processor around a `tokenizers.Tokenizer`."""

    def make(
        tokenizer,
        *,
        image_size=112,
        video_pooling=(2, 2),
        image_pooling=(2, 2),
        max_crops=8,
        overlap_margins=(1, 1),
        use_single_crop_col_tokens=False,
    ):
        size = {"height": image_size, "width": image_size}
        return Molmo2Processor(
            image_processor=Molmo2ImageProcessor(
                size=size,
                patch_size=14,
                pooling_size=list(image_pooling),
                max_crops=max_crops,
                overlap_margins=list(overlap_margins),
                **_PREPARE,
            ),
            video_processor=Molmo2VideoProcessor(
                size=size, patch_size=14, pooling_size=list(video_pooling), **_PREPARE
            ),
            tokenizer=PreTrainedTokenizerFast(
                tokenizer_object=tokenizer,
                bos_token="<|im_end|>",
                eos_token="<|im_end|>",
                pad_token="<|endoftext|>",
                extra_special_tokens={"image_token": "<|image|>", "video_token": "<|video|>"},
            ),
            use_single_crop_col_tokens=use_single_crop_col_tokens,
        )

    return make
