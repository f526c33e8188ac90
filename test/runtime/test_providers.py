"""Execution providers: which onnxruntime an engine needs, what a provider is told, plug-ins."""

import os
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import DEVICES, NANO, load_engine
from molmo2_ros.runtime.manifest import FileEntry, Manifest, SamplingFacts, TextFacts
from molmo2_ros.runtime.onnx_session import (
    DeviceLostError,
    choose_device,
    fit_device,
    open_session,
)
from molmo2_ros.runtime.provider_shapes import profile_shapes
from molmo2_ros.runtime.providers import (
    PLUGIN_MODULE,
    PROVIDERS,
    cache_folder,
    check_fit,
    make_cache,
    provider_options,
    release,
)

# Names that the providers take, as they stand in libonnxruntime_providers_tensorrt.so of
# onnxruntime-gpu 1.31.1 and in the header that version 0.5.0 of the TensorRT-RTX plug-in ships.
TENSORRT_OPTIONS = {
    "trt_bf16_enable",
    "trt_context_memory_sharing_enable",
    "trt_cuda_graph_enable",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_engine_cache_prefix",
    "trt_fp16_enable",
    "trt_load_user_initializer",
    "trt_profile_max_shapes",
    "trt_profile_min_shapes",
    "trt_profile_opt_shapes",
    "trt_timing_cache_enable",
    "trt_timing_cache_path",
}
RTX_OPTIONS = {
    "nv_profile_max_shapes",
    "nv_profile_min_shapes",
    "nv_profile_opt_shapes",
    "nv_runtime_cache_path",
    "nv_use_external_data_initializer",
}


@pytest.fixture(scope="module")
def manifest():
    return Manifest.load(NANO)


@pytest.fixture(scope="module")
def released(manifest):
    """The nano's manifest with the shapes of Molmo2-4B."""
    return replace(
        manifest,
        dtype="float16",
        vision=replace(
            manifest.vision, image_size=378, video_pooling=(3, 3), overlap_margins=(4, 4)
        ),
        text=TextFacts(
            num_layers=36,
            num_kv_heads=8,
            head_dim=128,
            hidden_size=2560,
            vocab_size=151_936,
            max_positions=36_864,
        ),
        sampling=SamplingFacts(point_fps=2.0, track_fps=8.0, max_frames=384, max_clip_s=63.0),
    )


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("1.31.1", (1, 31)), ("1.24.0rc1", (1, 24)), ("1.23", (1, 23)), ("dev", (0, 0)), ("", (0, 0))],
)
def test_release_is_the_first_two_numbers(text, numbers):
    assert release(text) == numbers


@pytest.mark.parametrize(
    ("change", "device", "enough", "too_old", "why"),
    [
        ({}, "cpu", "1.23.2", "1.22.1", "opset 23"),
        ({"opset": 24}, "cpu", "1.24.4", "1.23.2", "opset 24"),
        ({"opset": 20, "form": "decomposed"}, "cpu", "1.17.0", "1.16.3", "opset 20"),
        ({}, "cuda", "1.27.0", "1.26.0", "fused attention on CUDA"),
        ({}, "tensorrt", "1.27.0", "1.24.4", "fused attention on CUDA"),
        ({"opset": 20, "form": "decomposed"}, "cuda", "1.23.2", "1.16.0", "opset 20"),
        ({"dtype": "float16"}, "cpu", "1.26.0", "1.24.4", "float16 on the CPU"),
        (
            {"dtype": "float16", "opset": 20, "form": "decomposed"},
            "tensorrt-rtx",
            "1.24.0",
            "1.23.2",
            "a provider that is plugged in",
        ),
    ],
)
def test_the_oldest_onnxruntime_follows_from_form_type_and_device(
    manifest, change, device, enough, too_old, why
):
    engine = replace(manifest, **change)
    check_fit(engine, device, enough)
    with pytest.raises(EngineError, match=f"or later for {why}, found {re.escape(too_old)}"):
        check_fit(engine, device, too_old)


def test_a_fused_engine_can_be_exported_in_the_other_form_instead(manifest):
    with pytest.raises(EngineError, match=r"ends at 1\.23\), or export .* `--form decomposed`"):
        check_fit(manifest, "cuda", "1.24.4")
    plain = replace(manifest, form="decomposed", opset=20)
    with pytest.raises(EngineError, match="or ask for another device"):
        check_fit(plain, "tensorrt-rtx", "1.23.2")


def test_types_that_a_device_does_not_compute_are_refused(manifest):
    with pytest.raises(EngineError, match="in bfloat16, which ONNX Runtime does not multiply"):
        check_fit(replace(manifest, dtype="bfloat16"), "cpu", "1.32.0")
    check_fit(replace(manifest, dtype="bfloat16"), "cuda", "1.32.0")
    with pytest.raises(EngineError, match="fused attention in float32, for which TensorRT-RTX"):
        check_fit(manifest, "tensorrt-rtx", "1.32.0")
    check_fit(replace(manifest, form="decomposed", opset=20), "tensorrt-rtx", "1.32.0")


def test_auto_takes_the_cpu_where_the_gpus_onnxruntime_is_too_old(manifest, monkeypatch):
    monkeypatch.setattr(onnxruntime, "__version__", "1.24.4")
    device, why = fit_device(manifest, "auto", "cuda")
    assert device == "cpu"
    assert "fused attention on CUDA" in str(why)
    with pytest.raises(EngineError, match="fused attention on CUDA"):
        fit_device(manifest, "cuda", "cuda")
    assert fit_device(manifest, "auto", "cpu") == ("cpu", None)
    monkeypatch.setattr(onnxruntime, "__version__", "1.22.0")
    with pytest.raises(EngineError, match="needs onnxruntime 1.23"):
        fit_device(manifest, "auto", "cuda")


@pytest.mark.parametrize("graph", ["vision", "decoder"])
def test_options_are_those_that_the_providers_know(released, graph):
    told = {
        device: provider_options(released, graph, device, Path("/cache")) for device in PROVIDERS
    }
    assert told["cpu"] == {}
    assert told["cuda"] == {"use_tf32": "0"}
    assert told["tensorrt"].keys() <= TENSORRT_OPTIONS
    assert told["tensorrt-rtx"].keys() <= RTX_OPTIONS
    assert all(isinstance(value, str) for options in told.values() for value in options.values())


def test_tensorrt_keeps_the_types_of_the_file_and_its_work_in_the_cache(released):
    told = provider_options(released, "decoder", "tensorrt", Path("/cache"))
    assert (told["trt_fp16_enable"], told["trt_bf16_enable"]) == ("1", "0")
    assert told["trt_engine_cache_path"] == told["trt_timing_cache_path"] == "/cache"
    assert told["trt_engine_cache_enable"] == told["trt_timing_cache_enable"] == "1"
    assert told["trt_engine_cache_prefix"] == "decoder"
    plain = provider_options(
        replace(released, dtype="float32"), "decoder", "tensorrt", Path("/cache")
    )
    assert (plain["trt_fp16_enable"], plain["trt_bf16_enable"]) == ("0", "0")


def test_weights_above_the_limit_of_a_message_are_handed_over_apart(released):
    data = FileEntry(sha256="0" * 64, bytes=2**31)
    large = replace(released, files={**released.files, "decoder.onnx.data": data})
    for engine, graph, apart in (
        (large, "decoder", "1"),
        (large, "vision", "0"),
        (released, "decoder", "0"),
    ):
        told = [
            provider_options(engine, graph, device, Path("/cache"))
            for device in ("tensorrt", "tensorrt-rtx")
        ]
        assert told[0]["trt_load_user_initializer"] == apart
        assert told[1]["nv_use_external_data_initializer"] == apart


def parsed(text):
    pairs = (entry.split(":") for entry in text.split(","))
    return {name: tuple(map(int, dims.split("x"))) for name, dims in pairs}


def test_shapes_of_the_released_size_hold_its_clips(released):
    least, usual, most = (parsed(text) for text in profile_shapes(released, "vision"))
    assert least == {"patches": (1, 729, 588), "pooling": (1, 4)}
    assert usual == {"patches": (1, 729, 588), "pooling": (81, 9)}
    assert most == {"patches": (32, 729, 588), "pooling": (32 * 14 * 14, 9)}
    least, usual, most = (parsed(text) for text in profile_shapes(released, "decoder"))
    assert len(least) == 5 + 2 * 36
    assert least["past_key_35"] == (1, 8, 0, 128)
    assert usual["input_ids"] == (1, 12)
    assert most["visual_add"][2] == 2560
    assert most["input_ids"][1] >= 32 * (81 + 2) + 200


@pytest.mark.parametrize("size", ["nano", "released"])
def test_shapes_agree_with_each_other(manifest, released, size):
    for text in profile_shapes(released if size == "released" else manifest, "decoder"):
        shapes = parsed(text)
        new, past = shapes["input_ids"][1], shapes["past_value_0"][2]
        assert shapes["attn_bias"] == (1, 1, new, past + new)
        assert shapes["position_ids"] == shapes["visual_add"][:2] == (1, new)
        assert shapes["logit_indices"][0] <= max(new, 1024)


@pytest.mark.parametrize("bound", [0, 1, 2])
@pytest.mark.parametrize("graph", ["vision", "decoder"])
def test_the_real_graphs_take_the_shapes_that_providers_are_told(manifest, graph, bound):
    session = onnxruntime.InferenceSession(
        NANO / f"{graph}.onnx", providers=["CPUExecutionProvider"]
    )
    shapes = parsed(profile_shapes(manifest, graph)[bound])
    assert list(shapes) == [value.name for value in session.get_inputs()]
    types = {"tensor(int64)": np.int64, "tensor(float)": np.float32}
    feeds = {
        value.name: np.zeros(shapes[value.name], types[value.type])
        for value in session.get_inputs()
    }
    first = session.run(session.get_outputs()[0].name.split(), feeds)[0]
    assert first.shape[-1] in (manifest.text.vocab_size, manifest.vision.feature_width)


def test_the_cache_is_apart_for_each_device_and_each_state_of_the_files(manifest, tmp_path, caplog):
    environ = {"HOME": "/home/robot"}
    folder = cache_folder(manifest, "tensorrt", environ)
    assert str(folder).startswith("/home/robot/.cache/molmo2_ros/tensorrt/molmo2-nano-")
    assert cache_folder(manifest, "tensorrt-rtx", environ).parent.name == "tensorrt-rtx"
    files = {**manifest.files, "decoder.onnx": manifest.files["vision.onnx"]}
    assert cache_folder(replace(manifest, files=files), "tensorrt", environ) != folder
    chosen = {**environ, "XDG_CACHE_HOME": "/var/cache"}
    assert cache_folder(manifest, "tensorrt", chosen).parents[1] == Path("/var/cache/molmo2_ros")
    chosen["MOLMO2_ROS_CACHE"] = str(tmp_path / "engines")
    with caplog.at_level("INFO"):
        made = make_cache(manifest, "tensorrt", chosen)
    assert made.is_dir()
    assert "tensorrt compiles molmo2-nano, which takes minutes, once" in caplog.text
    assert made.parents[1] == tmp_path / "engines"


def test_only_providers_that_compile_get_a_folder(manifest, tmp_path):
    environ = {"MOLMO2_ROS_CACHE": str(tmp_path / "cache")}
    assert not make_cache(manifest, "cuda", environ).exists()
    assert not make_cache(manifest, "cpu", environ).exists()


def test_a_cache_that_cannot_be_made_is_reported_with_the_cure(manifest, tmp_path):
    (tmp_path / "cache").write_text("a file")
    environ = {"MOLMO2_ROS_CACHE": str(tmp_path / "cache")}
    with pytest.raises(EngineError, match=r"cannot be made .* export MOLMO2_ROS_CACHE=FOLDER"):
        make_cache(manifest, "tensorrt", environ)


@pytest.mark.parametrize(
    ("device", "cure"),
    [
        (
            "tensorrt",
            r"TensorrtExecutionProvider, .* install TensorRT 10, whose libnvinfer\.so\.10",
        ),
        (
            "tensorrt-rtx",
            r"NvTensorRTRTXExec.*`pip install \"onnxruntime>=1\.24\" onnxruntime-ep-n",
        ),
    ],
)
def test_a_provider_that_is_not_installed_is_named_with_its_cure(device, cure):
    with pytest.raises(EngineError, match=cure):
        load_engine(NANO, device=device)


def test_every_device_but_auto_has_a_provider():
    assert set(DEVICES) - {"auto"} == set(PROVIDERS)


@pytest.fixture
def plugin(monkeypatch, tmp_path):
    """A plug-in's Python part, which behaves as NVIDIA's, around a library that is no provider."""
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime_providers_shared.so")
    (tmp_path / f"{PLUGIN_MODULE}.py").write_text(
        "import os\n"
        "os.environ['LD_LIBRARY_PATH'] = '/wheel:' + os.environ.get('LD_LIBRARY_PATH', '')\n"
        f"def get_library_path(): return {str(library)!r}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop(PLUGIN_MODULE, None)


@pytest.mark.parametrize("paths", ["/opt/ros/lib", None])
def test_a_plug_in_that_does_not_load_is_reported_and_children_find_their_libraries(
    plugin, monkeypatch, paths
):
    """ROS 2 from wheels does not start in a child whose LD_LIBRARY_PATH was changed."""
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    if paths is not None:
        monkeypatch.setenv("LD_LIBRARY_PATH", paths)
    assert choose_device("tensorrt-rtx") == "tensorrt-rtx"
    with pytest.raises(DeviceLostError, match=r"could not start NvTensorRTRTX.*8\.6, 8\.9, and 12"):
        open_session(NANO / "vision.onnx", "tensorrt-rtx", 1, ("patches", "pooling"))
    assert os.environ.get("LD_LIBRARY_PATH") == paths
