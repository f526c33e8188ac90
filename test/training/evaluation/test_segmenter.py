"""J&F by SAM 2: transformers' architecture with small random weights, against its own processor."""

import cv2
import numpy as np
import pytest
import torch

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.engines.torchvision_ops import declare_missing_ops
from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    Annotation,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.evaluation.segmenter import mask_measures, open_segmenter, told_times

declare_missing_ops()

from transformers import (  # noqa: E402
    Sam2ImageProcessor,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VideoProcessor,
    Sam2VideoVideoProcessor,
)

SIDE, HEIGHT, WIDTH, NUM = 64, 60, 80, 5


def small_config():
    """SAM 2 for videos with all its parts, each as narrow as it may be."""
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "image_size": [SIDE, SIDE],
        "hidden_size": 8,
        "num_attention_heads": 1,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 2, 4, 8],
        "window_size_per_stage": [4, 4, 4, 4],
        "global_attention_blocks": [3],
        "window_positional_embedding_background_size": [2, 2],
    }
    return Sam2VideoConfig(
        image_size=SIDE,
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_config": backbone,
            "backbone_channel_list": [64, 32, 16, 8],
            "backbone_feature_sizes": [[SIDE // n] * 2 for n in (4, 8, 16)],
            "fpn_hidden_size": 128,
        },
        prompt_encoder_config={
            "hidden_size": 128,
            "image_size": SIDE,
            "patch_size": 16,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 128,
            "mlp_dim": 32,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 32,
        },
        memory_attention_hidden_size=128,
        memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32,
        memory_attention_rope_feat_sizes=[SIDE // 16] * 2,
        memory_encoder_hidden_size=128,
        memory_encoder_output_channels=64,
        mask_downsampler_embed_dim=128,
        memory_fuser_embed_dim=128,
        memory_fuser_intermediate_dim=32,
        memory_fuser_num_layers=1,
    )


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as a download has it."""
    folder = tmp_path_factory.mktemp("sam2")
    torch.manual_seed(3)
    model = Sam2VideoModel(small_config())
    for name, parameter in model.named_parameters():  # so that masks differ from place to place
        if parameter.dim() > 1 or "embed" in name:
            torch.nn.init.normal_(parameter, std=0.2)
        if name.endswith("pred_obj_score_head.proj_out.bias"):
            torch.nn.init.constant_(parameter, 50.0)  # there is an object
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def segmenter(weights):
    return open_segmenter(weights)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """Noise with a bright square that moves, as a data set with masks of three of its frames."""
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    frames, masks = [], []
    for t in range(NUM):
        image = rng.integers(0, 90, (HEIGHT, WIDTH, 3)).astype(np.uint8)
        mask = np.zeros((HEIGHT, WIDTH), bool)
        mask[20:40, 10 * t : 10 * t + 20] = True
        image[mask] = (250, 220, 40)
        frames.append(image)
        masks.append(mask)
    with DatasetWriter(folder) as writer:
        for t in range(NUM):
            cv2.imwrite(str(folder / f"{t}.png"), frames[t][..., ::-1])
        paths = [(0.5 * t, writer.add_mask(f"m{t}", masks[t])) for t in (0, 1, 3)]
    media = Media(
        frames=tuple(f"{t}.png" for t in range(NUM)), times_s=tuple(0.5 * t for t in range(NUM))
    )
    thing = LabelledObject(
        points=(
            LabelledPoint(x=0.1, y=0.5, time_s=0.0),
            LabelledPoint(time_s=2.0, visible=False),
        ),
        masks=tuple(paths),
    )
    return folder, media, Annotation(task=Task.TRACK, label="square", objects=(thing,)), frames


def processor_masks(weights, frames, prompts):
    """The way that transformers documents, with its own processor."""
    size = {"height": SIDE, "width": SIDE}
    processor = Sam2VideoProcessor(
        Sam2ImageProcessor(size=size), Sam2VideoVideoProcessor(size=size)
    )
    model = Sam2VideoModel.from_pretrained(weights).eval()
    session = processor.init_video_session(video=np.stack(frames))
    for number, (x, y) in prompts.items():
        processor.add_inputs_to_inference_session(
            inference_session=session,
            frame_idx=number,
            obj_ids=1,
            input_points=[[[[x * WIDTH, y * HEIGHT]]]],
            input_labels=[[[1]]],
        )
        model(session, frame_idx=number)
    found = {}
    for reverse in (False, True):
        for output in model.propagate_in_video_iterator(session, reverse=reverse):
            found[output.frame_idx] = output.pred_masks[0, 0].numpy()
    return found


def test_objects_are_followed_as_transformers_own_processor_has_it(weights, segmenter, clip):
    prompts = {1: (0.25, 0.5), 3: (0.5, 0.5)}
    media, frames = clip[1], clip[3]
    _, squeezed, _ = segmenter._frames(clip[0], media)
    (ours,) = segmenter.follow(squeezed, {7: prompts})
    theirs = processor_masks(weights, frames, prompts)
    assert sorted(ours) == sorted(theirs) == list(range(NUM))
    spread = np.ptp(list(theirs.values()))
    assert min(logits.min() for logits in theirs.values()) > -1000  # an object everywhere
    assert spread > 0.1
    for number, logits in theirs.items():
        assert np.abs(ours[number] - logits).max() < 0.02 * spread


def test_several_objects_do_not_see_each_other(segmenter, clip):
    _, squeezed, _ = segmenter._frames(clip[0], clip[1])
    one, two = {0: (0.2, 0.5)}, {2: (0.8, 0.1)}
    together = list(segmenter.follow(squeezed, {1: one, 2: two}))
    alone = [next(iter(segmenter.follow(squeezed, {5: prompts}))) for prompts in (one, two)]
    for each, other in zip(together, alone, strict=True):
        assert sorted(each) == sorted(other)
        assert all(np.allclose(each[number], other[number], atol=1e-5) for number in each)


def answered(text):
    blank = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    frames = [Frame(image=blank.copy(), stamp_ns=500_000_000 * t) for t in range(NUM)]
    return read_answer(Query(name="q", kind=QueryKind.TRACK, words="square"), text, frames)


def boxes(*lefts):
    """Masks of 20 x 20 pixels from these columns on, empty for None."""
    masks = np.zeros((len(lefts), HEIGHT, WIDTH), bool)
    for mask, left in zip(masks, lefts, strict=True):
        if left is not None:
            mask[20:40, left : left + 20] = True
    return list(masks)


@pytest.mark.parametrize(
    ("lefts", "region"),
    [
        # Measured are 0, 0.5 and 1.5 s, which have a mask, and 2.0 s, where it is hidden.
        ((0, 10, 30, None), 1.0),
        ((None, None, None, None), 0.25),
        ((0, 10, 30, 30), 0.75),  # something where nothing is
        ((10, 10, 30, None), (1 / 3 + 3) / 4),  # half of the first one is off: 10 of 30 columns
    ],
)
def test_frames_with_a_mask_or_a_hidden_point_are_measured(clip, lefts, region):
    folder, _, annotation, _ = clip
    times_s = told_times(annotation.objects)
    assert times_s == [0.0, 0.5, 1.5, 2.0]
    measures = mask_measures(folder, annotation.objects, times_s, boxes(*lefts))
    assert measures["j_and_f_region"] == (pytest.approx(region),)
    (outline,), (both,) = measures["j_and_f_outline"], measures["j_and_f"]
    assert both == pytest.approx((region + outline) / 2)
    assert (outline == 1.0) == (region == 1.0)


def test_without_masks_nothing_is_measured(segmenter, clip):
    folder, media, _, _ = clip
    bare = LabelledObject(points=(LabelledPoint(x=0.1, y=0.5, time_s=0.0),))
    annotation = Annotation(task=Task.TRACK, label="square", objects=(bare,))
    assert segmenter.measure(folder, annotation, media, answered("There are none.")) == {}


def test_a_real_track_is_measured_from_end_to_end(segmenter, clip):
    folder, media, annotation, _ = clip
    text = '<tracks coords="0.5 1 250 500;1.5 1 500 500">square</tracks>'
    measures = segmenter.measure(folder, annotation, media, answered(text))
    assert set(measures) == {"j_and_f", "j_and_f_region", "j_and_f_outline"}
    assert all(0 <= value <= 1 for (value,) in measures.values())


def test_a_folder_without_weights_and_weights_of_another_model_are_refused(tmp_path, weights):
    with pytest.raises(EngineError, match=r"no model\.safetensors in .*sam2\.1-hiera-large"):
        open_segmenter(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / "config.json").write_text((weights / "config.json").read_text())
    with pytest.raises(EngineError, match="transformers cannot load SAM 2 from"):
        open_segmenter(tmp_path)
