"""Writes docs/parameters.md: `python -m molmo2_ros.ros.parameter_docs > docs/parameters.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from molmo2_ros.ros.parameters import NODES, OF_EACH_CAMERA
from molmo2_ros.ros.settings import Setting, Value, settings_of

_HEAD = """# Parameters

Made by `python -m molmo2_ros.ros.parameter_docs > docs/parameters.md` from
`molmo2_ros/ros/parameters.py`; a test holds the two equal.

A *live* parameter acts at once (`ros2 param set`). The others of `grounding_node` are read when it
is configured: deactivate it and clean it up first (`ros2 lifecycle set /grounding deactivate`, then
`cleanup`), set them, then `configure` and `activate`. The others of `camera_node`, `arm_node`,
`recorder_node` and `web_node` are read at start. A value of another type, out of range or an
unknown kind of query is refused with the reason, and nothing changes.
"""


def parameters_markdown() -> str:
    """The whole document, ending with a newline."""
    parts = [_HEAD]
    for node_name, cls in NODES.items():
        assert cls.__doc__
        parts.append(f"\n## {node_name}\n\n{cls.__doc__}\n\n")
        parts.append(_table(settings_of(cls).values()))
        if node_name in OF_EACH_CAMERA:
            per_camera = OF_EACH_CAMERA[node_name]
            assert per_camera.__doc__
            parts.append(f"\n### Of each named camera\n\n{per_camera.__doc__}\n\n")
            parts.append(_table(settings_of(per_camera).values(), "NAME."))
    return "".join(parts)


def _table(settings: Iterable[Setting], prefix: str = "") -> str:
    head = "| parameter | type | default | unit | range | live | meaning |\n"
    return head + "|---|---|---|---|---|---|---|\n" + "".join(_row(a, prefix) for a in settings)


def _row(about: Setting, prefix: str) -> str:
    cells = (
        f"`{prefix}{about.name}`",
        about.type_name,
        _value_text(about.default),
        about.unit,
        about.range_text,
        "yes" if about.live else "",
        about.description,
    )
    return f"| {' | '.join(cells)} |\n"


def _value_text(value: Value) -> str:
    if isinstance(value, tuple):
        return f"`[{', '.join(repr(entry) for entry in value)}]`"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    return f"`{value!r}`".replace("'", '"')


if __name__ == "__main__":
    sys.stdout.write(parameters_markdown())
