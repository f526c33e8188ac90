"""The grounding node of soak.py: the real one, whose ONNX Runtime fails while a file lies there.

    python benchmarks/soak_node.py FAIL_FILE --ros-args -p engine:=...

The engine runs in a thread of the node, so no process of its own can be killed. The nearest true
fault is an exception out of the runtime: while the file is there, the session that encodes pictures
gets its inputs with one dimension too many, and ONNX Runtime itself refuses them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import cv2

sys.path[:0] = [str(Path(__file__).parents[1])]

from molmo2_ros.ros.grounding_node import GroundingNode  # noqa: E402
from molmo2_ros.ros.process import run_node  # noqa: E402
from molmo2_ros.runtime import onnx_engine  # noqa: E402
from molmo2_ros.runtime.onnx_session import open_session  # noqa: E402


class FailingSession:
    """A session of ONNX Runtime that is asked wrongly while a file is there.

    Args:
        session: the real one.
        fail_file: the file.
    """

    def __init__(self, session: Any, fail_file: Path) -> None:
        self._session, self._fail_file = session, fail_file

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def run(self, outputs: Any, feeds: dict[str, Any], *rest: Any) -> Any:
        """Run the graph, with spoilt inputs or as asked."""
        if self._fail_file.exists():
            feeds = {name: value[None] for name, value in feeds.items()}
        return self._session.run(outputs, feeds, *rest)


def main() -> int:
    """Run the node as `grounding_node` does."""
    fail_file = Path(sys.argv[1])

    def open_failing(*arguments: Any) -> FailingSession:
        return FailingSession(open_session(*arguments), fail_file)

    setattr(onnx_engine, "open_session", open_failing)  # noqa: B010  (mypy: not a name of that module)
    cv2.setNumThreads(1)
    return run_node(GroundingNode, sys.argv[2:], shares_memory=False)


if __name__ == "__main__":
    sys.exit(main())
