"""The HTTP interface: what the page does, for programs."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Path, Query, Response

from molmo2_ros.camera.stamp import stamp_decimal
from molmo2_ros.corrections import PictureName, Review
from molmo2_ros.prompt import query as questions
from molmo2_ros.prompt.query import QueryKind, SeedPoint, asked_once, label, parse_query, query_text
from molmo2_ros.query_commands import is_command
from molmo2_ros.web.backend import Backend
from molmo2_ros.web.hub import Hub
from molmo2_ros.web.models import (
    NAME_PATTERN,
    Answered,
    Ask,
    Change,
    Correct,
    Corrected,
    Corrections,
    Keep,
    Problem,
    Stand,
    Standing,
    State,
    TrackFrom,
)
from molmo2_ros.web.scene import Scene

_TELL_PATIENCE_S = 3.0  # until a node has told what it made of a query
_NEAR = 0.1  # of the picture's width: so near a target it is the thing that was meant
_ANYTHING = "object"
_SOURCE = "web"
_EMPTY = {"status_code": 204, "response_class": Response}

QueryName = Annotated[str, Path(pattern=NAME_PATTERN)]
NodeName = Annotated[str | None, Query(max_length=256)]


def make_router(hub: Hub, backend: Backend) -> APIRouter:
    """All routes below /api.

    Args:
        hub: what is known.
        backend: who is asked.
    """
    problems: dict[int | str, dict[str, Any]] = {
        code: {"model": Problem, "description": text}
        for code, text in (
            (400, "The request cannot be read."),
            (401, "The token is missing or wrong."),
            (403, "Another site's page, or another host name."),
            (404, "There is no such node, camera, query or correction."),
            (409, "It cannot be done; `detail` says why."),
            (413, "The request is too large."),
            (422, "A value is malformed or out of range; `detail` says which."),
            (429, "Too many requests."),
        )
    }
    router = APIRouter(prefix="/api", responses=problems)
    requests = _Requests(hub, backend)
    for method, path, handler, about in (
        ("GET", "/state", requests.state, {"response_model": State}),
        ("GET", "/picture", requests.picture, {"response_class": Response}),
        ("POST", "/ask", requests.ask, {"response_model": Answered}),
        ("POST", "/queries", requests.stand, {"response_model": Standing, "status_code": 201}),
        ("PATCH", "/queries/{name}", requests.change, {"response_model": Standing}),
        ("DELETE", "/queries/{name}", requests.remove, _EMPTY),
        ("POST", "/track", requests.track, {"response_model": Standing, "status_code": 201}),
        ("GET", "/corrections", requests.corrections, {"response_model": Corrections}),
        (
            "POST",
            "/corrections",
            requests.correct,
            {"response_model": Corrected, "status_code": 201},
        ),
        ("DELETE", "/corrections/{correction_id}", requests.undo, _EMPTY),
        ("POST", "/keep", requests.keep, _EMPTY),
    ):
        router.add_api_route(path, handler, methods=[method], **about)
    return router


class _Requests:
    """One method for each route; their docstrings are the OpenAPI document's."""

    def __init__(self, hub: Hub, backend: Backend) -> None:
        self._hub = hub
        self._backend = backend

    async def state(self) -> dict[str, Any]:
        """What there is: nodes, cameras, standing queries, and how the nodes fare."""
        hub = self._hub
        return {
            "nodes": list(self._backend.nodes),
            "cameras": hub.cameras_json(),
            "queries": hub.queries,
            "status": hub.statuses,
            "viewers": len(hub.viewers),
            "max_viewers": hub.max_viewers,
        }

    async def picture(self, camera: Annotated[str, Query(max_length=256)] = "") -> Response:
        """The newest picture of a camera (the first one where none is named) as JPEG."""
        scene = self._scene(camera or next(iter(self._hub.cameras), ""))
        picture = await scene.picture(self._hub.in_thread)
        headers = {"X-Stamp": stamp_decimal(scene.stamp_ns), "Cache-Control": "no-store"}
        return Response(picture, media_type="image/jpeg", headers=headers)

    async def ask(self, request: Ask) -> dict[str, Any]:
        """Ask one question, once, and wait for its answer."""
        node = self._node(request.node)
        query = asked_once(_parsed(request.text))
        name = f"web_{secrets.token_hex(4)}"
        self._backend.ask(node, query_text(replace(query, name=name)))

        def answered() -> dict[str, Any] | None:
            last = self._hub.last_answer
            return last if last is not None and last["query"]["name"] == name else None

        return {"name": name, "answer": await self._hub.until(answered, request.wait_s)}

    async def stand(self, request: Stand) -> dict[str, Any]:
        """Let a question stand: it is asked again and again."""
        return await self._stand(self._node(request.node), _parsed(request.text))

    async def change(self, name: QueryName, request: Change) -> dict[str, Any]:
        """Rename a standing query, pause or resume it, or change its rate."""
        node = self._node(request.node)
        self._standing(node, name)
        before = self._hub.standing(node)[name]["wanted_rate_hz"]
        num_told = self._hub.num_told[node]
        if request.name is not None and request.name != name:
            self._backend.query(node, f"rename: {name} to {request.name}")
            name = request.name
        if request.paused is not None:
            self._backend.query(node, f"{'pause' if request.paused else 'resume'}: {name}")
        if request.rate_hz is not None:
            rate = f"{request.rate_hz!r} hz" if request.rate_hz > 0 else "free"
            self._backend.query(node, f"rate: {name} {rate}")

        def told() -> dict[str, Any] | None:
            entry = self._hub.standing(node).get(name)
            if entry is None or self._hub.num_told[node] == num_told:
                return None
            is_paused = request.paused in (None, entry["paused"])
            if request.rate_hz:
                is_rated = entry["wanted_rate_hz"] == request.rate_hz
            else:  # to the node's own rate, which may be the one that it was
                is_rated = request.rate_hz is None or (
                    entry["wanted_rate_hz"] != before or self._hub.num_told[node] > num_told + 1
                )
            return entry if is_paused and is_rated else None

        return {"name": name, "text": "", "query": await self._hub.until(told, _TELL_PATIENCE_S)}

    async def remove(self, name: QueryName, node: NodeName = None) -> None:
        """Ask a standing query no more."""
        asked = self._node(node)
        self._standing(asked, name)
        self._backend.query(asked, f"remove: {name}")

    async def track(self, request: TrackFrom) -> dict[str, Any]:
        """Track the thing at a pixel of a picture, from there on (Molmo2's single-point track)."""
        node = self._node(request.node)
        scene = self._scene(request.camera)
        words = request.words.strip() or self._words_near(scene, request.u, request.v, node)
        if request.u >= scene.width or request.v >= scene.height:
            raise HTTPException(
                422,
                f"the pixel {request.u:g}, {request.v:g} is outside the picture of "
                f"{scene.width}x{scene.height}",
            )
        query = questions.Query(
            name=self._free_name(node),
            kind=QueryKind.TRACK,
            words=words,
            seed=SeedPoint(
                time_s=0.0,
                x=(request.u + 0.5) / scene.width,
                y=(request.v + 0.5) / scene.height,
                stamp_ns=request.stamp.ns,
            ),
        )
        return await self._stand(node, query)

    async def corrections(self) -> dict[str, Any]:
        """What was corrected here, newest last; `state` is sent, recorded or undone."""
        return {"corrections": self._hub.reviews.as_json()}

    async def correct(self, request: Correct) -> dict[str, Any]:
        """Say where all the things of a query are in one picture; recorded for training."""
        scene = self._scene(request.camera)
        words = label(questions.Query(name="correction", kind=QueryKind.POINT, words=request.query))
        points = tuple((point.u, point.v) for point in request.points)
        if any(u >= scene.width or v >= scene.height for u, v in points):
            raise HTTPException(
                422, f"a point is outside the picture of {scene.width}x{scene.height}"
            )
        review = Review(
            id=f"{_SOURCE}-{secrets.token_hex(5)}",
            query=words,
            stamp_ns=request.stamp.ns,
            frame_id=scene.frame_id,
            points_px=points,
            source=_SOURCE,
        )
        self._backend.review(review)
        self._hub.reviews.add(request.camera, review)
        self._hub.reviews_changed()
        return {"id": review.id}

    async def undo(self, correction_id: Annotated[str, Path(max_length=64)]) -> None:
        """Take a correction back: what stood before it stands again."""
        if not self._hub.reviews.stands(correction_id):
            raise HTTPException(404, f"no correction {correction_id[:64]!r} stands")
        self._backend.review(self._hub.reviews.undone(correction_id))
        self._hub.reviews.mark_undone(correction_id)
        self._hub.reviews_changed()

    async def keep(self, request: Keep) -> None:
        """Have a picture recorded that somebody looks at, before it is forgotten."""
        scene = self._scene(request.camera)
        self._backend.keep(PictureName(stamp_ns=request.stamp.ns, frame_id=scene.frame_id))

    async def _stand(self, node: str, query: questions.Query) -> dict[str, Any]:
        text = query_text(query)
        before = self._hub.standing(node).get(query.name)
        num_refused, _ = self._hub.refusals(node)
        self._backend.query(node, text)

        def told() -> dict[str, Any] | None:
            entry = self._hub.standing(node).get(query.name)
            if entry is not None and entry["words"] == query.words and entry != before:
                return entry
            number, reason = self._hub.refusals(node)
            return {"reason": reason} if number > num_refused and reason else None

        entry = await self._hub.until(told, _TELL_PATIENCE_S)
        if entry is not None and "reason" in entry:
            raise HTTPException(409, entry["reason"])
        return {"name": query.name, "text": text, "query": entry}

    def _node(self, name: str | None) -> str:
        nodes = self._backend.nodes
        if name is None and nodes:
            return nodes[0]
        if name is None or name not in nodes:
            raise HTTPException(404, f"there is no node {name!r}; there are: {', '.join(nodes)}")
        return name

    def _scene(self, camera: str) -> Scene:
        scene = self._hub.scenes.get(camera)
        if scene is None:
            there = ", ".join(self._hub.scenes) or "none"
            raise HTTPException(
                404, f"no camera {camera[:80]!r} shows anything; there are: {there}"
            )
        return scene

    def _standing(self, node: str, name: str) -> None:
        standing = self._hub.standing(node)
        if name not in standing:
            there = ", ".join(standing) or "none"
            raise HTTPException(404, f"no query is named {name!r}; what stands: {there}")

    def _free_name(self, node: str) -> str:
        standing = self._hub.standing(node)
        return next(name for i in range(1, 10**6) if (name := f"here_{i}") not in standing)

    def _words_near(self, scene: Scene, u: float, v: float, node: str) -> str:
        """What the target nearest to a pixel is called."""
        labels = {entry["id"]: entry["label"] for entry in self._hub.standing(node).values()}
        near = [
            (((mark.u - u) ** 2 + (mark.v - v) ** 2) ** 0.5, labels[mark.query_id])
            for mark in scene.marks or ()
            if mark.node == node and mark.query_id in labels
        ]
        distance, words = min(near, default=(float("inf"), _ANYTHING))
        return words if distance < _NEAR * scene.width else _ANYTHING


def _parsed(text: str) -> questions.Query:
    if is_command(text):
        raise HTTPException(422, "this is a command, expected a question; use PATCH or DELETE")
    return parse_query(text)
