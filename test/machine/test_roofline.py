"""The published table of bounds, cell by cell, and what a plan is made of."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.devices import DEVICES, find_device
from molmo2_ros.machine.models import MODELS
from molmo2_ros.machine.precision import PRECISIONS, find_precision, precision_of
from molmo2_ros.machine.roofline import Workload, memory_of, plan
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest, QuantizedFacts

FOUR, EIGHT, SEVEN = "Molmo2-4B", "Molmo2-8B", "Molmo2-O-7B"
TABLE_WORKLOAD = Workload(context_tokens=800)  # what the table counts in the cache
# Half a unit of a cell's last digit, and a little: one cell, 75 for 8B on AGX Orin, is half of
# another cell that had been rounded to 149 before.
UNIT = 0.52

# Milliseconds. A token in bf16, int8, int4; "no": the model does not fit in it.
TOKEN = [
    ("orin-nano", FOUR, "80 no", "40", "27"),
    ("orin-nx", FOUR, "80", "40", "27"),
    ("agx-orin", FOUR, "40", "20", "13.5"),
    ("agx-thor", FOUR, "30", "15", "10"),
    ("rtx-4090", FOUR, "8.1", "4.1", "2.7"),
    ("h100", FOUR, "2.4", None, "0.8"),
    ("h200", FOUR, "1.7", None, "0.6"),
    ("orin-nano", EIGHT, None, None, "48 no"),
    ("orin-nx", EIGHT, "149 no", "75", "48"),
    ("agx-orin", EIGHT, "75", "38", "24"),
    ("agx-thor", EIGHT, "56", "28", "18"),
    ("rtx-4090", EIGHT, "15", "7.6", "4.9"),
    ("h100", EIGHT, "4.6", None, "1.5"),
    ("h200", EIGHT, "3.2", None, "1.0"),
]
# Arithmetic of reading eight frames, 4B and 8B; of the vision tower for one frame and for eight.
ARITHMETIC = [
    ("orin-nano", "328", None, "36", "290"),
    ("orin-nx", "290", "540", "32", "257"),
    ("agx-orin", "131", "244", "14.5", "116"),
    ("agx-thor", "22", "40", "2.4", "19"),
    ("rtx-4090", "34", "63", "3.7", "30"),
    ("h100", "6", "10", "0.6", "5"),
    ("h200", "6", "10", "0.6", "5"),
]
# An answer of 100 tokens, one by one and in ten passes: 4B bf16, 4B int4, 8B int4.
ANSWER = [
    ("orin-nano", None, ("2704", "270"), None),
    ("orin-nx", ("7971", "797"), ("2704", "270"), ("4828", "483")),
    ("agx-orin", ("3986", "399"), ("1352", "135"), ("2414", "241")),
    ("agx-thor", ("2990", "299"), ("1014", "101"), ("1811", "181")),
    ("rtx-4090", ("810", "81"), ("275", "27"), ("490", "49")),
    ("h100", ("244", "24"), ("83", "8"), ("148", "15")),
    ("h200", ("170", "17"), ("58", "6"), ("103", "10")),
]


def bounds(device, model, precision):
    return plan(MODELS[model], DEVICES[device], PRECISIONS[precision], TABLE_WORKLOAD)


def holds(seconds, cell):
    """Whether a time is what a cell in milliseconds was rounded from."""
    digits = len(cell.partition(".")[2])
    return abs(seconds * 1000 - float(cell)) <= UNIT * 10**-digits


@pytest.mark.parametrize("row", TOKEN, ids=lambda row: f"{row[0]}-{row[1]}")
def test_a_token_takes_the_tables_time_and_fits_where_the_table_says(row):
    device, model, *cells = row
    for precision, cell in zip(("bf16", "int8", "int4"), cells, strict=True):
        if cell is None:
            continue
        number, _, misfit = cell.partition(" ")
        made = bounds(device, model, precision)
        assert made.token.bound_by == "bandwidth"
        assert holds(made.token.bound_s, number), (precision, made.token.bound_s)
        assert made.fits is not bool(misfit), precision


@pytest.mark.parametrize("row", ARITHMETIC, ids=lambda row: row[0])
def test_prefill_and_vision_take_the_tables_arithmetic(row):
    device, four, eight, frame, frames = row
    for model, cell in ((FOUR, four), (EIGHT, eight)):
        if cell is not None:
            assert holds(bounds(device, model, "int4").prefill.arithmetic_s, cell), model
    vision = bounds(device, FOUR, "int4").vision.arithmetic_s
    assert holds(vision, frame)
    assert holds(8 * vision, frames)


@pytest.mark.parametrize("row", ANSWER, ids=lambda row: row[0])
def test_an_answer_takes_the_tables_time_plain_and_verified(row):
    device, *cells = row
    kinds = ((FOUR, "bf16"), (FOUR, "int4"), (EIGHT, "int4"))
    for (model, precision), cell in zip(kinds, cells, strict=True):
        if cell is None:
            continue
        made = bounds(device, model, precision)
        assert made.workload.verify_passes == 10
        assert made.verify.bound_by == "bandwidth"
        assert holds(made.plain_s, cell[0]), (model, precision)
        assert holds(made.verified_s, cell[1]), (model, precision)


@pytest.mark.parametrize(
    ("model", "precision", "gigabytes"),
    [
        (FOUR, "bf16", 8.0),
        (FOUR, "int8", 4.0),
        (FOUR, "int4", 2.65),
        (EIGHT, "bf16", 15.1),
        (EIGHT, "int8", 7.6),
        (EIGHT, "int4", 4.8),
    ],
)
def test_a_token_reads_the_tables_bytes(model, precision, gigabytes):
    made = plan(MODELS[model], DEVICES["h100"], PRECISIONS[precision], Workload(context_tokens=0))
    assert made.token.bytes / 1e9 == pytest.approx(
        gigabytes, abs=0.05 if gigabytes != 2.65 else 0.005
    )


@pytest.mark.parametrize(("model", "tera"), [(FOUR, 5.6), (EIGHT, 10.4), (SEVEN, 9.7)])
def test_prefill_of_eight_frames_takes_the_tables_arithmetic(model, tera):
    made = bounds("h100", model, "bf16")
    assert made.workload.prompt_tokens(MODELS[model]) == 724
    assert round(made.prefill.flops / 1e12, 1) == tera


@pytest.mark.parametrize(
    ("devices", "precision", "least", "most"),
    [
        (("orin-nano", "orin-nx", "agx-orin", "rtx-4090"), "int4", 42, 53),
        (("agx-thor",), "int4", 244, 244),
        (("orin-nano", "orin-nx", "agx-orin", "rtx-4090", "h100", "h200"), "bf16", 164, 295),
        (("agx-thor",), "bf16", 945, 945),
    ],
)
def test_arithmetic_overtakes_reading_where_the_table_says(devices, precision, least, most):
    ridges = [bounds(device, FOUR, precision).ridge_tokens for device in devices]
    assert min(ridges) == pytest.approx(least, abs=UNIT)
    assert max(ridges) == pytest.approx(most, abs=UNIT)


def test_likely_times_are_the_published_ones_where_something_is_known():
    """4B int4 on AGX Orin: 0.28 s of vision, 0.31 s of prefill, 1.8 s of plain decoding."""
    made = bounds("agx-orin", FOUR, "int4")
    assert 8 * made.vision.likely_s == pytest.approx(0.28, abs=0.005)
    assert made.prefill.likely_s == pytest.approx(0.31, abs=0.005)
    assert 100 * made.token.likely_s == pytest.approx(1.8, abs=0.05)
    assert made.verify.likely_s is None
    thor = bounds("agx-thor", FOUR, "bf16")
    assert thor.vision.likely_s == pytest.approx(thor.vision.arithmetic_s / 0.275)
    assert thor.token.likely_s == pytest.approx(0.04, abs=0.0005)
    assert bounds("h100", FOUR, "int4").token.likely_s is None


def test_bf16_weights_on_thor_bound_prefill_by_bandwidth():
    """The table counts arithmetic alone; with bf16 weights, reading them takes longer there."""
    made = bounds("agx-thor", FOUR, "bf16").prefill
    assert made.bound_by == "bandwidth"
    assert made.bound_s == made.bandwidth_s > made.arithmetic_s


@given(
    frames=st.integers(1, 200),
    answer=st.integers(1, 2048),
    verify=st.integers(1, 64),
    model=st.sampled_from(sorted(MODELS)),
    precision=st.sampled_from(sorted(PRECISIONS)),
)
def test_more_work_never_takes_less_time(frames, answer, verify, model, precision):
    less = Workload(frames=frames, answer_tokens=answer, verify_tokens=verify)
    more = replace(less, frames=frames + 1, answer_tokens=answer + 1, verify_tokens=verify + 1)
    first, second = (
        plan(MODELS[model], DEVICES["orin-nx"], PRECISIONS[precision], work)
        for work in (less, more)
    )
    for one, other in zip(first.stages, second.stages, strict=True):
        assert one.bound_s <= other.bound_s
    assert first.plain_s < second.plain_s
    assert first.memory.total < second.memory.total
    assert less.verify_passes * verify >= answer


@pytest.mark.parametrize("name", ["frames", "text_tokens", "answer_tokens", "verify_tokens"])
def test_a_question_of_nothing_is_refused(name):
    with pytest.raises(ConfigError, match=f"{name} is 0, expected at least 1"):
        Workload(**{name: 0})


def test_unknown_devices_and_precisions_are_refused_with_the_known():
    with pytest.raises(ConfigError, match=r"'nano' is no known device, .* orin-nano, orin-nx, agx"):
        find_device("nano")
    with pytest.raises(
        ConfigError, match="'int3' is no known precision, .* bf16, fp16, int8, int4"
    ):
        find_precision("int3")
    assert find_device("AGX-Orin").title == "Jetson AGX Orin 64GB"
    assert find_precision("INT4").name == "int4"


@pytest.mark.parametrize(
    ("dtype", "facts", "block", "head", "value"),
    [
        ("float32", None, 4, 4, 4),
        ("float16", None, 2, 2, 2),
        ("float16", ("int4", 32), 0.5 + 2 / 32, 2, 2),
        ("float32", ("int8", 128), 1 + 2 / 128, 4, 4),
        ("bfloat16", ("fp8", 0), 1, 2, 2),
        ("float16", ("nvfp4", 16), 0.5 + 2 / 16, 2, 2),
    ],
)
def test_a_manifest_tells_an_engines_precision(dtype, facts, block, head, value):
    quantized = {}
    if facts is not None:
        scheme, size = facts
        quantized = {"decoder": QuantizedFacts(scheme=scheme, operator="MatMulNBits", block=size)}
    found = precision_of(replace(Manifest.load(NANO), dtype=dtype, quantized=quantized))
    assert (found.block_bytes, found.head_bytes, found.value_bytes) == (block, head, value)


def test_memory_of_a_model_is_its_weights_and_little_more():
    memory = memory_of(MODELS[FOUR], PRECISIONS["bf16"], Workload())
    assert memory.weights / 1e9 == pytest.approx(9.7, abs=0.05)  # as others report of the 4B
    assert memory.total / memory.weights < 1.05
