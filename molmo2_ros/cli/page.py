"""Asking a live page from a shell: no ROS, no model and no camera here."""

from __future__ import annotations

import argparse
import json
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Any
from urllib.parse import urlsplit

from molmo2_ros.errors import QueryError, ServerError

_WAIT_S = 50.0  # that the page may wait for the answer
_PATIENCE_S = 70.0  # for its reply
_MAX_REPLY = 16 * 2**20  # bytes


def ask_page(options: argparse.Namespace) -> None:
    """Ask and print what was answered.

    Args:
        options: url, token, question, files, out, rerun and json of the command line.

    Raises:
        QueryError: files were named as well, or the page refuses the question.
        ServerError: there is no such page, or its answer did not come in time.
    """
    if options.files or options.out is not None or options.rerun is not None:
        raise QueryError(
            "--url asks about the page's own camera; leave the files, --out and --rerun away, or "
            "--url"
        )
    told = _post(options.url, options.token, {"text": options.question, "wait_s": _WAIT_S})
    answer = told.get("answer")
    if answer is None:
        raise ServerError(f"{options.url} gave no answer in {_WAIT_S:g} s; its model is busy")
    if answer["refused"]:
        raise QueryError("; ".join(answer["problems"]) or "the model refuses the question")
    print(json.dumps(answer, ensure_ascii=False) if options.json else _table(answer))


def _post(url: str, token: str, content: dict[str, Any]) -> dict[str, Any]:
    parts = urlsplit(url if "//" in url else f"http://{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ServerError(f"{url!r} is no address of a page, expected such as http://robot:8080")
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    try:
        connection = kind(parts.hostname, parts.port, timeout=_PATIENCE_S)
        connection.request("POST", "/api/ask", json.dumps(content), headers)
        response = connection.getresponse()
        told = json.loads(response.read(_MAX_REPLY))
        connection.close()
    except (OSError, HTTPException, ValueError) as error:
        raise ServerError(
            f"{url} does not answer as a live page does ({error}); check the address, and that "
            "`molmo2 web` or web_node runs there"
        ) from error
    if response.status == 200 and isinstance(told, dict):
        return told
    detail = told.get("detail", told) if isinstance(told, dict) else told
    if response.status in (409, 422):
        raise QueryError(str(detail))
    raise ServerError(f"{url} refuses: {detail}", status=response.status)


def _table(answer: dict[str, Any]) -> str:
    """Points in pixels as `molmo2 ask` of a file prints them, or the words."""
    if answer["query"]["kind"] in ("ask", "caption"):
        return str(answer["text"])
    lines = []
    if answer["count"] is not None:
        lines.append(f"count: {answer['count']}")
    if answer["none"]:
        lines.append("none")
    width, height = answer["image"]["width"], answer["image"]["height"]
    if answer["points"]:
        lines.append("time s  id    x px    y px  label    confidence")
    for point in answer["points"]:
        sure = point["confidence"]
        lines.append(
            f"{point['time_s'] or 0.0:6.1f} {point['object_id']:3d} "
            f"{point['x'] * width - 0.5:7.1f} {point['y'] * height - 0.5:7.1f}  "
            f"{answer['label']}    "
            f"{'unknown' if sure is None else format(sure, '.2f')}"
        )
    return "\n".join(lines + [f"[{problem}]" for problem in answer["problems"]])
