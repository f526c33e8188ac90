"""Pictures of a scene by a GPU through EGL: look, units and truth of render.py, and no display."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from molmo2_ros.simulation.gl_painter import Painter
from molmo2_ros.simulation.view import Intrinsics, View
from molmo2_ros.simulation.world import Scene


class EglRenderer:
    """Draws scenes for one camera model, like RayRenderer.

    A GL context belongs to one thread: this has one of its own, so that it may be made, asked and
    closed from any. The shapes that it has met stay on the GPU until it is closed.

    Args:
        intrinsics: of the picture.
        software: a CPU may stand in for the GPU, which is no faster than rays.

    Raises:
        ConfigError: moderngl is not installed, EGL gives no context of OpenGL 3.3, or there is no
            GPU and `software` is False.
    """

    def __init__(self, intrinsics: Intrinsics, *, software: bool = True) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="egl")
        try:
            self._painter = self._thread.submit(Painter, intrinsics, software).result()
        except BaseException:
            self._thread.shutdown()
            raise
        self._is_open = True
        #: Of the GL renderer: "NVIDIA H100/PCIe/SSE2", "llvmpipe (LLVM 15.0.6, 256 bits)".
        self.name = self._painter.name

    def render(self, scene: Scene) -> View:
        """Draws the scene as it is now.

        Raises:
            RuntimeError: it has been closed.
        """
        return self._thread.submit(self._painter.render, scene).result()

    def close(self) -> None:
        """Frees the context with all that lies on the GPU; may be called twice."""
        if self._is_open:
            self._is_open = False
            self._thread.submit(self._painter.release).result()
            self._thread.shutdown()
