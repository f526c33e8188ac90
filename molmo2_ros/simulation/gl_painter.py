"""What a GPU does for one picture: shadows, truth, colours, and how much is hidden.

Legend: H and W of the picture, J objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation import glsl
from molmo2_ros.simulation.gl_context import open_context, release_context
from molmo2_ros.simulation.mesh import room_mesh, shape_mesh
from molmo2_ros.simulation.projection import (
    LampView,
    Matrix,
    clip_from_optical,
    lamp_view,
    optical_from_world,
    world_from_item,
)
from molmo2_ros.simulation.shape import RayShape
from molmo2_ros.simulation.view import GREY, Intrinsics, Surfaces, View
from molmo2_ros.simulation.world import Scene

_NUM_SAMPLES = 4
_SHADOW_SIZE = 2048
_ROOM_BYTES = 36 * 7 * 4
_VERTEX = ("3f 3f 1f", "position", "normal", "part")


@dataclass(frozen=True, slots=True)
class _Placed:
    """A mesh at its place in the scene."""

    index: int
    #: A vertex array for each pass.
    arrays: dict[str, Any]
    world_from_item: bytes
    first_code: int


class Painter:
    """All that lives in the thread of a GL context: made, used and released there.

    Args:
        intrinsics: of the picture.
        software: a CPU may stand in for the GPU.

    Raises:
        ConfigError: there is no context, or it cannot draw this.
    """

    def __init__(self, intrinsics: Intrinsics, software: bool) -> None:
        self._gl = open_context(software=software)
        #: Of the GL renderer: "NVIDIA H100/PCIe/SSE2", "llvmpipe (LLVM 15.0.6, 256 bits)".
        self.name = str(self._gl.info["GL_RENDERER"])
        self._intrinsics = intrinsics
        try:
            self._set_up()
        except Exception as error:  # what moderngl raises says little by its class
            self.release()
            raise ConfigError(
                f"{self.name} cannot draw the table: {error}; update its driver, choose another "
                "device by GLCONTEXT_DEVICE_INDEX, or let rays draw the table"
            ) from error

    def _set_up(self) -> None:
        gl = self._gl
        gl.enable_only(gl.DEPTH_TEST)
        self._programs = {
            name: gl.program(vertex_shader=glsl.VERTEX, fragment_shader=fragment)
            for name, fragment in glsl.FRAGMENTS.items()
        }
        self._textures: dict[str, Any] = {}
        self._filled: dict[str, npt.NDArray[Any]] = {}
        for unit, name in enumerate(glsl.TEXTURES):
            self._programs["colour"][name] = unit
        self._targets = self._make_targets(self._intrinsics.width, self._intrinsics.height)
        self._shapes: dict[RayShape, dict[str, Any]] = {}
        self._room = gl.buffer(reserve=_ROOM_BYTES, dynamic=True)
        self._room_arrays = self._arrays(self._room)
        self._queries: list[Any] = []

    def _make_targets(self, width: int, height: int) -> dict[str, Any]:
        """A framebuffer for each pass, and `picture`, into which the samples are averaged."""
        gl, size, wide = self._gl, (width, height), (3 * width, 3 * height)
        num = min(_NUM_SAMPLES, gl.max_samples)
        shadow = gl.depth_texture((_SHADOW_SIZE, _SHADOW_SIZE))
        shadow.repeat_x = shadow.repeat_y = False
        shadow.compare_func, shadow.filter = "<=", (gl.LINEAR, gl.LINEAR)
        self._textures["shadow"] = shadow
        truth = gl.renderbuffer(size, 2, dtype="f4"), gl.depth_renderbuffer(size)
        samples = gl.renderbuffer(size, 4, samples=num), gl.depth_renderbuffer(size, samples=num)
        return {
            "shadow": gl.framebuffer(depth_attachment=shadow),
            "truth": gl.framebuffer(*truth),
            "colour": gl.framebuffer(*samples),
            "layer": gl.framebuffer(depth_attachment=gl.depth_renderbuffer(wide)),
            "picture": gl.framebuffer(gl.renderbuffer(size, 4)),
        }

    def render(self, scene: Scene) -> View:
        """Draws the scene for the lamp, for the truth and for the eye, and each object alone."""
        surfaces = Surfaces(scene)
        items = self._place(surfaces)
        lamp = lamp_view(scene.room.lamp, surfaces.drawn)
        optical = optical_from_world(scene.camera)
        clip = clip_from_optical(self._intrinsics) @ optical
        self._room.write(room_mesh(scene.room))
        self._begin("shadow", lamp.clip_from_world)
        self._draw("shadow", items)
        self._begin("truth", clip)
        self._draw("truth", items, with_room=True)
        self._begin("colour", clip, background=GREY * scene.room.ambient)
        self._set_light(scene, surfaces, lamp)
        self._draw("colour", items, with_room=True)
        self._gl.copy_framebuffer(self._targets["picture"], self._targets["colour"])
        # The picture, and as much again on every side.
        self._begin("layer", clip_from_optical(self._intrinsics, times=3) @ optical)
        alone = self._count_alone(items, len(scene.items))
        return self._read(surfaces, alone)

    def _place(self, surfaces: Surfaces) -> list[_Placed]:
        placed = []
        for j, (item, code) in enumerate(zip(surfaces.drawn, surfaces.first_code, strict=True)):
            if not item.present:
                continue
            if item.shape not in self._shapes:
                vertices = shape_mesh(item.shape.parts)
                self._shapes[item.shape] = self._arrays(self._gl.buffer(vertices))
            arrays = self._shapes[item.shape]
            placed.append(_Placed(j, arrays, _bytes(world_from_item(item)), code))
        return placed

    def _arrays(self, vertices: Any) -> dict[str, Any]:
        return {
            name: self._gl.vertex_array(program, [(vertices, *_VERTEX)], skip_errors=True)
            for name, program in self._programs.items()
        }

    def _begin(self, name: str, clip_from_world: Matrix, background: float = 0.0) -> None:
        self._programs[name]["clip_from_world"].write(_bytes(clip_from_world))
        self._targets[name].use()
        self._targets[name].clear(background, background, background)

    def _draw(self, name: str, items: Sequence[_Placed], *, with_room: bool = False) -> None:
        program = self._programs[name]
        world, first_code = program["world_from_item"], program.get("first_code", None)
        if with_room:
            # Last, since most of what it would colour is hidden by then.
            items = [*items, _Placed(-1, self._room_arrays, _bytes(np.eye(4)), 0)]
        for item in items:
            world.write(item.world_from_item)
            if first_code is not None:
                first_code.value = item.first_code
            item.arrays[name].render()

    def _count_alone(self, items: Sequence[_Placed], num_objects: int) -> npt.NDArray[np.int64]:
        """[J] pixels that each object would cover in a picture nine times as large, if alone."""
        layer = self._programs["layer"]["layer"]
        asked: list[int] = []
        for item in items:
            if item.index >= num_objects:
                continue
            if len(self._queries) <= len(asked):
                self._queries.append(self._gl.query(samples=True))
            # Each lies wholly in front of those before it: none hides another, and all fit one
            # clearing of the target.
            layer.value = 1 - (item.index + 1) / (num_objects + 1)
            with self._queries[len(asked)]:
                self._draw("layer", [item])
            asked.append(item.index)
        counts = np.zeros(num_objects, np.int64)
        for index, query in zip(asked, self._queries, strict=False):
            counts[index] = query.samples
        return counts

    def _set_light(self, scene: Scene, surfaces: Surfaces, lamp: LampView) -> None:
        room, program = scene.room, self._programs["colour"]
        turn = np.radians(room.table_turn_deg)
        for name, value in (
            ("eye", scene.camera.position),
            ("lamp", room.lamp),
            ("lamp_colour", room.lamp_colour),
            ("table_turn", (np.cos(turn), np.sin(turn))),
            ("lamp_depth", lamp.depth),
        ):
            program[name].value = tuple(float(number) for number in value)
        program["ambient"].value = room.ambient
        program["headlight"].value = room.headlight
        program["lamp_from_world"].write(_bytes(lamp.clip_from_world))
        self._fill("palette", surfaces.palette[None])
        self._fill("floor_texture", room.floor)
        self._fill("table_texture", room.table)
        self._fill("wall_texture", room.wall)
        for unit, name in enumerate(glsl.TEXTURES):
            self._textures[name].use(unit)

    def _fill(self, name: str, colours: npt.NDArray[Any]) -> None:
        """Puts colours [rows, columns, 3] into a texture; no array changes once it is there."""
        if self._filled.get(name) is colours:
            return
        size = (colours.shape[1], colours.shape[0])
        texture = self._textures.get(name)
        if texture is None or texture.size != size:
            if texture is not None:
                texture.release()
            kind = "f1" if colours.dtype == np.uint8 else "f4"
            texture = self._gl.texture(size, 3, dtype=kind, alignment=1)
            texture.filter = (self._gl.LINEAR, self._gl.LINEAR)
            self._textures[name] = texture
        texture.write(np.ascontiguousarray(colours), alignment=1)
        self._filled[name] = colours

    def _read(self, surfaces: Surfaces, alone: npt.NDArray[np.int64]) -> View:
        height, width = self._intrinsics.height, self._intrinsics.width
        rgb = np.empty((height, width, 3), np.uint8)
        self._targets["picture"].read_into(rgb, components=3, alignment=1)
        found = np.empty((height, width, 2), np.float32)
        self._targets["truth"].read_into(found, components=2, dtype="f4", alignment=1)
        instances = surfaces.owner[found[..., 0].astype(np.intp)]
        seen = np.bincount(instances.ravel(), minlength=len(alone) + 1)[1:]
        return View(
            rgb=rgb,
            instances=instances,
            depth_m=np.ascontiguousarray(found[..., 1]),
            visible_fraction=(seen / np.maximum(np.maximum(alone, seen), 1)).astype(np.float32),
        )

    def release(self) -> None:
        """Destroys the context with all that was made in it."""
        release_context(self._gl)


def _bytes(matrix: Matrix) -> bytes:
    """A matrix as GL wants it: float32, column after column."""
    return bytes(matrix.T.astype(np.float32).tobytes())
