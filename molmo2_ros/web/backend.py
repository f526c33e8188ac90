"""What the page is about: somebody who has cameras, is asked, and takes corrections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from molmo2_ros.corrections import PictureName, Review


class Backend(Protocol):
    """Takes requests of viewers; what comes of them it tells the hub, sooner or later.

    All are called in the server's event loop and do not wait.
    """

    @property
    def nodes(self) -> Sequence[str]:
        """Names of those who can be asked; the first is meant where a request names none."""
        ...

    @property
    def cameras(self) -> Sequence[str]:
        """Names of the cameras, also of those that have not shown anything yet."""
        ...

    def ask(self, node: str, text: str) -> None:
        """One free question, as on ~/ask.

        Raises:
            QueryError: it cannot be asked, or too many wait.
        """
        ...

    def query(self, node: str, text: str) -> None:
        """A standing query or a change of one, as on ~/query.

        Raises:
            QueryError: it cannot stand, or there is no such query.
        """
        ...

    def review(self, review: Review) -> None:
        """What a person says of all places of a thing in one picture, as on ~/correction.

        Raises:
            DataError: it cannot be written down.
        """
        ...

    def keep(self, picture: PictureName) -> None:
        """A person looks at this picture for longer: it must not be forgotten."""
        ...
