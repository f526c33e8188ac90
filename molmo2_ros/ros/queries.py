"""The questions that stand: which were given by the parameter, which by topic, with their ids."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import Query, label, parse_query

BY_PARAMETER = "parameter"
BY_TOPIC = "topic"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingQuery:
    """A question that is asked again and again."""

    id: int  # from 1; a changed question gets a new one, so that old points cannot be taken for its
    query: Query
    given_by: str  # BY_PARAMETER or BY_TOPIC

    @property
    def label(self) -> str:
        """The thing without article."""
        return label(self.query)


def parse_standing(texts: Sequence[str]) -> list[Query]:
    """Read the parameter `queries`; one empty string stands for none.

    Raises:
        QueryError: a text is malformed, or two queries have one name.
    """
    if list(texts) == [""]:
        return []
    queries = [parse_query(text) for text in texts]
    names: dict[str, Query] = {}
    for query in queries:
        other = names.setdefault(query.name, query)
        if other is not query:
            raise QueryError(
                f"two queries are named {query.name!r} ({other.kind.value} and "
                f"{query.kind.value}), expected one name each; write NAME={query.kind.value}: "
                f"{query.words}"
            )
    return queries


class StandingQueries:
    """All standing queries of a camera; names are unique among them.

    Args:
        max_queries: so many may stand.
    """

    def __init__(self, max_queries: int) -> None:
        self.max_queries = max_queries
        self._lock = threading.Lock()  # guards _standing and _next_id
        self._standing: dict[str, StandingQuery] = {}
        self._next_id = 1

    def all(self) -> tuple[StandingQuery, ...]:
        """What stands now, oldest first."""
        with self._lock:  # guards _standing
            return tuple(sorted(self._standing.values(), key=lambda standing: standing.id))

    def replace_parameter(self, queries: Sequence[Query]) -> list[StandingQuery]:
        """Let exactly these stand by parameter, and those of the topic as before.

        Returns:
            those that stand no more.

        Raises:
            QueryError: too many; then nothing changes.
        """
        with self._lock:  # guards _standing and _next_id
            kept = {n: s for n, s in self._standing.items() if s.given_by == BY_TOPIC}
            return self._become(kept, queries, BY_PARAMETER)

    def add(self, query: Query) -> list[StandingQuery]:
        """Let one more stand by topic; one of the same name makes way.

        Returns:
            those that stand no more.

        Raises:
            QueryError: too many; then nothing changes.
        """
        with self._lock:  # guards _standing and _next_id
            return self._become(dict(self._standing), [query], BY_TOPIC)

    def remove(self, name: str) -> list[StandingQuery]:
        """Take one away, or all for the name `all`.

        Returns:
            those that stand no more.

        Raises:
            QueryError: none has this name.
        """
        with self._lock:  # guards _standing
            if name not in (*self._standing, "all"):
                names = ", ".join(self._standing) or "none"
                raise QueryError(f"no query is named {name!r}; what stands: {names}")
            gone = [s for n, s in self._standing.items() if name in (n, "all")]
            for standing in gone:
                del self._standing[standing.query.name]
            return gone

    def _become(
        self, kept: dict[str, StandingQuery], queries: Sequence[Query], given_by: str
    ) -> list[StandingQuery]:
        before, next_id = self._standing, self._next_id
        after = kept
        for query in queries:
            same = before.get(query.name)
            if same is not None and same.query == query:
                after[query.name] = same
                continue
            after[query.name] = StandingQuery(id=next_id, query=query, given_by=given_by)
            next_id += 1
        if len(after) > self.max_queries:
            raise QueryError(
                f"{len(after)} standing queries, expected at most {self.max_queries}; remove one "
                "(~/query `remove: NAME`) or raise max_queries"
            )
        self._standing, self._next_id = after, next_id
        ids = {standing.id for standing in after.values()}
        return [standing for standing in before.values() if standing.id not in ids]
