"""Who draws the simulated table: a GPU through EGL where there is one, otherwise rays."""

from __future__ import annotations

from typing import Protocol

from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.egl import EglRenderer
from molmo2_ros.simulation.render import RayRenderer
from molmo2_ros.simulation.view import Intrinsics, View
from molmo2_ros.simulation.world import Scene

RENDERERS = ("auto", "rays", "egl")


class Renderer(Protocol):
    """Draws scenes for one camera model."""

    @property
    def name(self) -> str:
        """What draws: "rays", or OpenGL's name of the GPU."""
        ...

    def render(self, scene: Scene) -> View:
        """Draws the scene as it is now."""
        ...

    def close(self) -> None:
        """Lets go of what it holds; may be called twice."""
        ...


def open_renderer(kind: str, intrinsics: Intrinsics) -> Renderer:
    """A renderer by its name.

    Args:
        kind: `rays`; `egl`, whatever stands behind it; `auto`: EGL on a GPU, otherwise rays,
            which cost a CPU no more. Source: measured, docs/performance.md.
        intrinsics: of the picture.

    Raises:
        ConfigError: `egl` cannot be had.
        ValueError: no such kind.
    """
    if kind not in RENDERERS:
        raise ValueError(f"renderer is {kind!r}, expected one of {', '.join(RENDERERS)}")
    if kind != "rays":
        try:
            return EglRenderer(intrinsics, software=kind == "egl")
        except ConfigError:
            if kind == "egl":
                raise
    return RayRenderer(intrinsics)
