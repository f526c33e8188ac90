"""A context of OpenGL without a display, through EGL, on a GPU where there is one."""

from __future__ import annotations

import ctypes
from typing import Any

from molmo2_ros.errors import ConfigError

_LIBRARY = "libEGL.so.1"  # hands out OpenGL's functions too: libGL need not be installed
_EGL_EXTENSIONS = 0x3055
_MAX_DEVICES = 32
_SOFTWARE = ("llvmpipe", "softpipe", "swrast", "swiftshader", "software rasterizer")


def open_context(*, software: bool = True) -> Any:
    """A moderngl context of OpenGL 3.3, current in the calling thread.

    The first GPU that EGL names gives it; the environment's GLCONTEXT_DEVICE_INDEX another one.

    Args:
        software: a CPU may stand in for a GPU.

    Raises:
        ConfigError: moderngl is not installed, EGL gives no context, or there is no GPU and
            `software` is False.
    """
    try:
        import moderngl
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"drawing through EGL needs the package {error.name}, and it is not installed; "
            "pip install 'molmo2_ros[simulation]', or let rays draw the table"
        ) from error
    try:
        gpus = _gpus()
        if not gpus and not software:
            raise ConfigError("EGL names no GPU, and a CPU draws no faster with it than by rays")
        place: dict[str, Any] = {"libgl": _LIBRARY, "libegl": _LIBRARY, "backend": "egl"}
        place["device_index"] = gpus[0] if gpus else 0
        gl = moderngl.create_context(require=330, standalone=True, **place)
    except ConfigError:
        raise
    except Exception as error:  # what moderngl and glcontext raise has no class of its own
        raise ConfigError(
            f"EGL gives no context of OpenGL 3.3: {error}; install the GPU's driver with its "
            f"{_LIBRARY} (Mesa's on Debian and Ubuntu: libegl1, libgl1-mesa-dri), let the process "
            "open /dev/dri or the NVIDIA devices, or let rays draw the table"
        ) from error
    name = str(gl.info["GL_RENDERER"])
    if not software and any(word in name.lower() for word in _SOFTWARE):
        release_context(gl)
        raise ConfigError(f"EGL draws with {name}, no faster than rays do on the CPU")
    return gl


def release_context(gl: Any) -> None:
    """Destroys a context that is current in the calling thread, and all that was made in it."""
    with gl:
        pass  # leaves none current: one that is current would live on
    gl.release()


def _gpus() -> list[int]:
    """Numbers of EGL's devices that do not call themselves software; opens none of them.

    Raises:
        OSError: there is no EGL.
    """
    egl = ctypes.CDLL(_LIBRARY)
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    egl.eglGetProcAddress.argtypes = [ctypes.c_char_p]
    list_devices = egl.eglGetProcAddress(b"eglQueryDevicesEXT")
    ask_device = egl.eglGetProcAddress(b"eglQueryDeviceStringEXT")
    if not list_devices or not ask_device:
        return []
    devices, num = (ctypes.c_void_p * _MAX_DEVICES)(), ctypes.c_int()
    query = ctypes.CFUNCTYPE(
        ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_int)
    )(list_devices)
    describe = ctypes.CFUNCTYPE(ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int)(ask_device)
    if not query(_MAX_DEVICES, devices, ctypes.byref(num)):
        return []
    extensions = [describe(device, _EGL_EXTENSIONS) or b"" for device in devices[: num.value]]
    return [i for i, words in enumerate(extensions) if b"EGL_MESA_device_software" not in words]
