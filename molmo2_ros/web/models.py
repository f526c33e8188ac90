"""What programs and the page send, and what they get: the schemas of the OpenAPI document."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.corrections import MAX_PLACES
from molmo2_ros.prompt.query import MAX_CHARACTERS, MAX_RATE_HZ

MAX_WAIT_S = 60.0
NAME_PATTERN = r"^[A-Za-z0-9_-]{1,64}$"

Pixel = Annotated[float, Field(ge=0, le=65535, allow_inf_nan=False)]
Text = Annotated[str, Field(min_length=1, max_length=MAX_CHARACTERS)]
Name = Annotated[str, Field(max_length=256)]


class Strict(BaseModel):
    """Nothing unknown is let through."""

    model_config = ConfigDict(extra="forbid")


class Stamp(Strict):
    """Time of a picture, as builtin_interfaces/Time has it."""

    sec: int = Field(ge=0, le=2**31 - 1)
    nanosec: int = Field(ge=0, le=NS_PER_S - 1)

    @property
    def ns(self) -> int:
        """Nanoseconds."""
        return self.sec * NS_PER_S + self.nanosec


class Place(Strict):
    """A pixel, counted from 0 at the centre of the top left one."""

    u: Pixel
    v: Pixel


class Ask(Strict):
    """One question, asked once."""

    text: Text = Field(examples=["How many mugs are there?", "point: the red mug"])
    node: Name | None = Field(None, description="Who is asked; the first where it is left out.")
    wait_s: float = Field(
        30.0, ge=0, le=MAX_WAIT_S, description="How long the reply may wait for the answer."
    )


class Stand(Strict):
    """A question that shall be asked again and again."""

    text: Text = Field(examples=["mug=track[2 hz]: the red mug"])
    node: Name | None = None


class Change(Strict):
    """What shall change of a standing query."""

    name: str | None = Field(None, pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    paused: bool | None = None
    rate_hz: float | None = Field(
        None, ge=0, le=MAX_RATE_HZ, description="Answers a second; 0 for as often as possible."
    )
    node: Name | None = None


class TrackFrom(Strict):
    """Track the thing that is shown at a pixel of a picture, from there on."""

    camera: Name
    stamp: Stamp
    u: Pixel
    v: Pixel
    words: str = Field(
        "",
        max_length=MAX_CHARACTERS,
        description="What it is called; where it is left out, as the target nearest to the pixel "
        "is, or else `object`.",
    )
    node: Name | None = None


class Correct(Strict):
    """All places of a thing in one picture; none where it is nowhere in it."""

    camera: Name
    stamp: Stamp
    query: Text = Field(description="The words for the thing.", examples=["red mug"])
    points: list[Place] = Field(max_length=MAX_PLACES)


class Keep(Strict):
    """A picture that somebody looks at for longer."""

    camera: Name
    stamp: Stamp


class Answered(BaseModel):
    """What came of a question."""

    name: str
    answer: dict[str, Any] | None = Field(
        description="As on ~/answer; null where it did not come in time."
    )


class Standing(BaseModel):
    """A standing query as the node tells it, null where it has not told within three seconds."""

    name: str
    text: str
    query: dict[str, Any] | None


class Corrected(BaseModel):
    """A correction that was sent."""

    id: str


class Corrections(BaseModel):
    """All that was corrected here, newest last."""

    corrections: list[dict[str, Any]]


class State(BaseModel):
    """All that a new viewer is told."""

    nodes: list[str]
    cameras: list[dict[str, Any]]
    queries: dict[str, dict[str, Any]]
    status: dict[str, list[dict[str, Any]]]
    viewers: int
    max_viewers: int


class Problem(BaseModel):
    """Why not."""

    detail: Any
