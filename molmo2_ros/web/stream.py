"""The WebSocket: everything that is new, to one viewer, at the viewer's own pace."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any, Literal

from fastapi import WebSocket, WebSocketDisconnect
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from molmo2_ros.web.hub import Hub, TooManyViewersError
from molmo2_ros.web.outbox import Outbox
from molmo2_ros.web.scene import Scene

MAX_MESSAGE_BYTES = 4096
MAX_MESSAGES_PER_S = 200.0  # one for each picture that was drawn, and some to spare
TRY_LATER = 1013
GOING_AWAY = 1001
POLICY = 1008


class Watch(BaseModel):
    """What this viewer wants from now on; before it, no scene is sent."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["watch"]
    cameras: list[str] | None = Field(None, max_length=64)
    scenes: bool = True
    pictures: bool = True
    acknowledge: bool = True


class Drawn(BaseModel):
    """The viewer has drawn a scene, and can take another."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["drawn"]
    number: int = Field(ge=0, le=2**53)


_MESSAGE: TypeAdapter[Watch | Drawn] = TypeAdapter(Watch | Drawn)


async def serve_viewer(socket: WebSocket, hub: Hub) -> None:
    """Send until the viewer goes."""
    await socket.accept()
    try:
        number, outbox = hub.join()
    except TooManyViewersError:
        await socket.close(TRY_LATER, f"all {hub.max_viewers} places are taken")
        return
    sender = asyncio.create_task(_send(socket, hub, outbox))
    try:
        await _receive(socket, hub, outbox)
    except WebSocketDisconnect:
        pass
    finally:
        hub.leave(number)
        sender.cancel()
        with contextlib.suppress(asyncio.CancelledError, WebSocketDisconnect, RuntimeError):
            await sender


async def _send(socket: WebSocket, hub: Hub, outbox: Outbox) -> None:
    while True:
        item = await outbox.take()
        if not isinstance(item, Scene):
            await socket.send_text(item)
        elif outbox.wants_pictures:
            await socket.send_bytes(await item.message(hub.in_thread))
        else:
            await socket.send_text(item.head.decode())


async def _receive(socket: WebSocket, hub: Hub, outbox: Outbox) -> None:
    allowance, since_s = MAX_MESSAGES_PER_S, time.monotonic()
    while True:
        message = await _text(socket)
        now_s = time.monotonic()
        allowance = min(MAX_MESSAGES_PER_S, allowance + (now_s - since_s) * MAX_MESSAGES_PER_S) - 1
        since_s = now_s
        if message is None or allowance < 0:
            reason = "expected JSON as text" if message is None else "too many messages"
            await socket.close(POLICY, reason)
            return
        if isinstance(message, Drawn):
            outbox.drawn(message.number, time.time())
        else:
            hub.watch(
                outbox,
                cameras=None if message.cameras is None else frozenset(message.cameras),
                scenes=message.scenes,
                pictures=message.pictures,
                acknowledges=message.acknowledge,
            )


async def _text(socket: WebSocket) -> Watch | Drawn | None:
    """The next message, None for one that is none."""
    received: dict[str, Any] = dict(await socket.receive())
    if received["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(received.get("code", 1005))
    text = received.get("text")
    if not isinstance(text, str) or len(text) > MAX_MESSAGE_BYTES:
        return None
    try:
        return _MESSAGE.validate_json(text)
    except ValidationError:
        return None
