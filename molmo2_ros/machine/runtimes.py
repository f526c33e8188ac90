"""Judges GPU, driver, Python, ONNX Runtime with its providers, and TensorRT."""

from __future__ import annotations

from collections.abc import Iterator

from molmo2_ros.machine.check import Check, fail, ok, warn
from molmo2_ros.machine.elf import runs_on
from molmo2_ros.machine.facts import Machine
from molmo2_ros.runtime.providers import CURES, GPU_CURE, PLUGIN_MODULE, PROVIDERS, release

# The oldest driver of a CUDA major version; NVIDIA's release notes of the toolkit.
_DRIVERS = {"12": 525, "13": 580}
_RTX_SM = (86, 89)  # and from 120 on: what TensorRT-RTX's provider takes
_OLDEST_TENSORRT, _FUSED_TENSORRT = (10, 3), (10, 15)
_JETSON_ONNXRUNTIME = (
    "install the onnxruntime-gpu that is built for this JetPack (Jetson AI Lab), or make a "
    "TensorRT engine: `molmo2 build-engine`"
)
_SYSTEM_LIBRARIES = ("libc.", "libm.", "libdl.", "librt.", "libpthread.", "libgcc_s.", "libstdc++.")


def check_runtimes(machine: Machine) -> list[Check]:
    """All of this file's lines, in the order in which a person reads them."""
    return [
        *_system(machine),
        *_gpu(machine),
        *_python(machine),
        *_onnxruntime(machine),
        *_cuda_provider(machine),
        *_tensorrt_provider(machine),
        *_rtx_provider(machine),
        *_tensorrt(machine),
    ]


def startable(machine: Machine) -> list[str]:
    """Devices whose provider is there and, by all that can be told without trying, starts."""
    runtime, gpu = machine.onnxruntime, machine.gpu
    if not runtime.package.works:
        return []
    devices = ["cpu"] if PROVIDERS["cpu"] in runtime.providers else []
    if gpu is not None and _has_kernels(machine) and not _missing(machine, PROVIDERS["cuda"]):
        devices += ["cuda"] if PROVIDERS["cuda"] in runtime.providers else []
        if not _missing(machine, PROVIDERS["tensorrt"]):
            devices += ["tensorrt"] if PROVIDERS["tensorrt"] in runtime.providers else []
    if runtime.plugin.works and runtime.plugin_gpus:
        devices.append("tensorrt-rtx")
    return devices


def _system(machine: Machine) -> Iterator[Check]:
    jetson = machine.jetson
    if jetson is None:
        yield ok("system", f"{machine.system or 'Linux'}, {machine.arch}, {machine.cores} cores")
        return
    found = f"{jetson.board}, JetPack {jetson.jetpack or '?'} (Jetson Linux {jetson.l4t or '?'})"
    if jetson.l4t and release(jetson.l4t) < (36, 4):
        yield warn(
            "system",
            found,
            "flash JetPack 6.2 or later: TensorRT before 10.3 reads no engine of ours",
        )
    else:
        yield ok("system", found)


def _gpu(machine: Machine) -> Iterator[Check]:
    gpu = machine.gpu
    if gpu is None:
        if machine.gpu_on_bus:
            yield fail(
                "gpu",
                "an NVIDIA GPU is plugged in, and no driver tells of it",
                "sudo ubuntu-drivers install && sudo reboot (in a container: --gpus all)",
            )
        else:
            yield warn("gpu", "no NVIDIA GPU", "none is needed for molmo2-nano; 4B and up crawl")
        return
    capability = "unknown" if gpu.sm is None else f"{gpu.sm / 10:.1f}"
    memory = "the board's memory" if gpu.memory_gb is None else f"{gpu.memory_gb:.1f} GB"
    more = f" and {len(machine.gpus) - 1} more" if len(machine.gpus) > 1 else ""
    found = f"{gpu.name}, compute capability {capability}, {memory}{more}"
    if gpu.sm is None:
        yield warn(
            "gpu", found, "install nvidia-smi, which tells: sudo apt install nvidia-utils-580"
        )
    else:
        yield ok("gpu", found)
    if machine.jetson is None:
        yield _driver(machine, gpu.driver)


def _driver(machine: Machine, version: str) -> Check:
    """The driver against the CUDA that ONNX Runtime's provider was built for."""
    found = f"NVIDIA {version}" if version else "unknown"
    library = machine.onnxruntime.libraries.get(PROVIDERS["cuda"])
    needs = [] if library is None else [n for n in library.needs if n.startswith("libcudart.so.")]
    cuda = needs[0].removeprefix("libcudart.so.") if needs else ""
    oldest = _DRIVERS.get(cuda)
    if version and oldest is not None and release(version)[0] < oldest:
        return fail(
            "driver",
            f"{found}, and this onnxruntime's CUDA {cuda} needs {oldest} or later",
            f"sudo apt install nvidia-driver-{oldest} && sudo reboot",
        )
    return ok("driver", found)


def _python(machine: Machine) -> Iterator[Check]:
    found = f"{machine.python[0]}.{machine.python[1]}"
    if machine.python < (3, 10):
        yield fail("python", f"{found}, expected 3.10 or later", "use Ubuntu 22.04 or later")
    elif machine.python == (3, 10):
        yield ok("python", f"{found}, for which onnxruntime ends at 1.23")
    else:
        yield ok("python", found)
    numpy = machine.packages.get("numpy", "?")
    opencv = next(
        (v for n, v in machine.packages.items() if n.startswith("opencv")), "not from pip"
    )
    found = f"NumPy {numpy}, OpenCV {opencv}"
    if machine.ros.apt and machine.ros.cv_bridge and release(numpy) >= (2, 0):
        yield warn("packages", f"{found}; apt's cv_bridge wants NumPy 1", 'pip install "numpy<2"')
    else:
        yield ok("packages", found)


def _onnxruntime(machine: Machine) -> Iterator[Check]:
    runtime = machine.onnxruntime
    package, gpu_cure = runtime.package, "pip install onnxruntime"
    if machine.jetson is not None:
        gpu_cure = _JETSON_ONNXRUNTIME
    elif machine.gpu is not None:
        gpu_cure = 'pip install "onnxruntime-gpu[cuda,cudnn]"'
    if not package.works:
        missing = f"cannot be imported ({package.error})" if package.version else "not installed"
        judge = warn if machine.tensorrt.works else fail
        yield judge("onnxruntime", missing, gpu_cure)
    elif len(runtime.distributions) > 1:
        both = " and ".join(runtime.distributions)
        yield fail("onnxruntime", f"{both} write the same folder, and the GPU is lost", GPU_CURE)
    elif release(package.version) < (1, 23):
        found = f"{package.version}, and opset 23 needs 1.23"
        yield fail("onnxruntime", found, "pip install -U " + "".join(runtime.distributions))
    else:
        names = [n.removesuffix("ExecutionProvider") for n in runtime.providers]
        yield ok("onnxruntime", f"{package.version} with {', '.join(names)}")


def _cuda_provider(machine: Machine) -> Iterator[Check]:
    """Whether CUDA's kernels in onnxruntime are for this GPU, and find their libraries."""
    runtime, gpu, name = machine.onnxruntime, machine.gpu, "onnxruntime.cuda"
    if gpu is None or not runtime.package.works:
        return
    cure = GPU_CURE if machine.jetson is None else _JETSON_ONNXRUNTIME
    if PROVIDERS["cuda"] not in runtime.providers:
        yield warn(name, "this onnxruntime was built without CUDA: engines run on the CPU", cure)
        return
    library = runtime.libraries.get(PROVIDERS["cuda"])
    if library is not None and not _has_kernels(machine):
        known = ", ".join(map(str, sorted(library.cubins | library.ptx))) or "none"
        found = f"its kernels are for sm {known}, and this GPU is sm {gpu.sm}: none would run"
        yield fail(name, found, cure)
        return
    missing = _missing(machine, PROVIDERS["cuda"])
    if missing:
        yield warn(name, f"does not start: {', '.join(missing)} not found", cure)
    elif release(runtime.package.version) < (1, 27):
        older = "export with `--form decomposed`"
        newer = machine.jetson is None and machine.python > (3, 10)
        yield warn(
            name,
            f"{runtime.package.version} runs fused attention on the CPU",
            f'pip install -U "onnxruntime-gpu>=1.27", or {older}' if newer else older,
        )
    else:
        kernels = "" if library is None or gpu.sm is None else f", kernels for sm {gpu.sm}"
        yield ok(name, f"starts{kernels}")


def _tensorrt_provider(machine: Machine) -> Iterator[Check]:
    runtime = machine.onnxruntime
    if machine.gpu is None or PROVIDERS["tensorrt"] not in runtime.providers:
        return
    missing = _missing(machine, PROVIDERS["tensorrt"])
    if missing:
        found = f"does not start: {', '.join(missing)} not found"
        yield warn("onnxruntime.tensorrt", found, CURES["tensorrt"])
    else:
        yield ok("onnxruntime.tensorrt", "finds its libraries")


def _rtx_provider(machine: Machine) -> Iterator[Check]:
    plugin, gpu, name = machine.onnxruntime.plugin, machine.gpu, "onnxruntime.tensorrt-rtx"
    if not plugin.version:
        return
    if gpu is not None and gpu.sm is not None and gpu.sm not in _RTX_SM and gpu.sm < 120:
        found = f"{plugin.version} takes sm 86, 89 and 120 or later, and this GPU is sm {gpu.sm}"
        yield warn(name, found, "ask for device cuda, or `molmo2 build-engine`")
    elif plugin.error or not machine.onnxruntime.plugin_gpus:
        why = plugin.error or "it finds no GPU"
        yield warn(name, f"{plugin.version} does not start: {why}", f"pip install -U {_plugin()}")
    else:
        yield ok(name, f"{plugin.version}, {machine.onnxruntime.plugin_gpus} GPU")


def _plugin() -> str:
    return f"{PLUGIN_MODULE.replace('_', '-')}-cu13, with a driver for CUDA 13 (580 or later)"


def _tensorrt(machine: Machine) -> Iterator[Check]:
    package, name = machine.tensorrt, "tensorrt"
    if machine.gpu is None and not package.version:
        return
    cure = 'pip install "tensorrt>=10.3"'
    if machine.jetson is not None:
        cure = "sudo apt install python3-libnvinfer python3-libnvinfer-dev"
    if not package.works:
        found = f"cannot be imported ({package.error})" if package.version else "not installed"
        yield warn(name, f"{found}: `molmo2 build-engine` needs it", cure)
    elif release(package.version) < _OLDEST_TENSORRT:
        yield fail(name, f"{package.version}, expected 10.3 or later", cure)
    else:
        form = "fused" if release(package.version) >= _FUSED_TENSORRT else "decomposed"
        yield ok(name, f"{package.version}, builds {form} exports")
    if machine.tensorrt_rtx.works:
        yield ok("tensorrt-rtx", f"{machine.tensorrt_rtx.version}")


def _has_kernels(machine: Machine) -> bool:
    """Whether CUDA's provider has kernels for the GPU; in doubt it is said to have them."""
    library, gpu = machine.onnxruntime.libraries.get(PROVIDERS["cuda"]), machine.gpu
    return library is None or gpu is None or gpu.sm is None or runs_on(library, gpu.sm)


def _missing(machine: Machine, provider: str) -> list[str]:
    """Libraries that a provider links to and a program on this machine would not find."""
    library = machine.onnxruntime.libraries.get(provider)
    if library is None or not machine.loadable:
        return []
    return [
        name
        for name in library.needs
        if name not in machine.loadable and not name.startswith((*_SYSTEM_LIBRARIES, "ld-linux"))
    ]
