"""The questions that stand: which were given by the parameter, which by topic, with their ids."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, replace

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import Query, check_name, label, parse_query

BY_PARAMETER = "parameter"
BY_TOPIC = "topic"


@dataclass(frozen=True, slots=True, kw_only=True)
class StandingQuery:
    """A question that is asked again and again."""

    id: int  # from 1; a changed question gets a new one, so that old points cannot be taken for its
    query: Query
    given_by: str  # BY_PARAMETER or BY_TOPIC
    expires_s: float | None  # time at which it stands no more; None: until it is removed
    paused: bool = False  # it stands and is not asked

    @property
    def label(self) -> str:
        """The thing without article."""
        return label(self.query)

    def stands(self, now_s: float) -> bool:
        """Whether its time is not over."""
        return self.expires_s is None or now_s < self.expires_s

    def time_left_s(self, now_s: float) -> float | None:
        """Seconds until it leaves by itself, None if it does not."""
        return None if self.expires_s is None else max(0.0, self.expires_s - now_s)


def parse_standing(texts: Sequence[str]) -> list[Query]:
    """Read the parameter `queries`; one empty string stands for none.

    What is asked twice in the same way is asked once.

    Raises:
        QueryError: a text is malformed, or two queries have one name.
    """
    if list(texts) == [""]:
        return []
    queries = list(dict.fromkeys(parse_query(text) for text in texts))
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

    Times are seconds of any clock that only runs forward.

    Args:
        max_queries: so many may stand.
    """

    def __init__(self, max_queries: int) -> None:
        self.max_queries = max_queries
        self._lock = threading.Lock()  # guards _standing and _next_id
        self._standing: dict[str, StandingQuery] = {}
        self._next_id = 1

    def all(self, now_s: float) -> tuple[StandingQuery, ...]:
        """What stands now, oldest first."""
        with self._lock:  # guards _standing
            standing = [entry for entry in self._standing.values() if entry.stands(now_s)]
        return tuple(sorted(standing, key=lambda entry: entry.id))

    def replace_parameter(self, queries: Sequence[Query], now_s: float) -> list[StandingQuery]:
        """Let exactly these stand by parameter, and those of the topic as before.

        A question that stood already keeps its id and gets its new terms, its time begins anew.

        Returns:
            those that stand no more.

        Raises:
            QueryError: too many; then nothing changes.
        """
        with self._lock:  # guards _standing and _next_id
            kept = {n: s for n, s in self._standing.items() if s.given_by == BY_TOPIC}
            return self._become(kept, queries, BY_PARAMETER, now_s)

    def add(self, query: Query, now_s: float) -> list[StandingQuery]:
        """Let one more stand by topic; one of the same name makes way.

        The same question asked again keeps its id and gets its new terms, its time begins anew.

        Returns:
            those that stand no more.

        Raises:
            QueryError: too many; then nothing changes.
        """
        with self._lock:  # guards _standing and _next_id
            return self._become(dict(self._standing), [query], BY_TOPIC, now_s)

    def remove(self, name: str) -> list[StandingQuery]:
        """Take one away, or all for the name `all`.

        Returns:
            those that stand no more.

        Raises:
            QueryError: none has this name.
        """
        with self._lock:  # guards _standing
            gone = self._named(name)
            for standing in gone:
                del self._standing[standing.query.name]
            return gone

    def pause(self, name: str, *, paused: bool = True) -> None:
        """Ask one no more until it is resumed, or all for the name `all`; its time goes on.

        Raises:
            QueryError: none has this name.
        """
        with self._lock:  # guards _standing
            for entry in self._named(name):
                self._standing[entry.query.name] = replace(entry, paused=paused)

    def rename(self, name: str, new_name: str) -> None:
        """Call one otherwise; it keeps its id, its targets and its place.

        Raises:
            QueryError: none has this name, or the new one is taken or is no name.
        """
        check_name(new_name)
        with self._lock:  # guards _standing
            (entry,) = self._named(name, all_too=False)
            if new_name in self._standing and new_name != name:
                raise QueryError(
                    f"a query is named {new_name!r} already, expected a name of its own; remove "
                    "that one or choose another"
                )
            del self._standing[name]
            self._standing[new_name] = replace(entry, query=replace(entry.query, name=new_name))

    def set_rate(self, name: str, rate_hz: float | None) -> None:
        """Wish for so many answers a second; None for as many as whoever asks gives.

        Raises:
            QueryError: none has this name, or the rate is out of range.
        """
        with self._lock:  # guards _standing
            (entry,) = self._named(name, all_too=False)
            terms = replace(entry.query.terms, rate_hz=rate_hz)
            self._standing[name] = replace(entry, query=replace(entry.query, terms=terms))

    def _named(self, name: str, *, all_too: bool = True) -> list[StandingQuery]:
        if name not in self._standing and not (all_too and name == "all"):
            names = ", ".join(self._standing) or "none"
            raise QueryError(f"no query is named {name!r}; what stands: {names}")
        return [entry for n, entry in self._standing.items() if name in (n, "all")]

    def expire(self, now_s: float) -> list[StandingQuery]:
        """Take away those whose time is over.

        Returns:
            those that stand no more.
        """
        with self._lock:  # guards _standing
            gone = [entry for entry in self._standing.values() if not entry.stands(now_s)]
            for entry in gone:
                del self._standing[entry.query.name]
            return gone

    @property
    def next_expiry_s(self) -> float | None:
        """Time at which the next one leaves by itself, None if none will."""
        with self._lock:  # guards _standing
            times = [entry.expires_s for entry in self._standing.values()]
        return min((time_s for time_s in times if time_s is not None), default=None)

    def _become(
        self,
        kept: dict[str, StandingQuery],
        queries: Sequence[Query],
        given_by: str,
        now_s: float,
    ) -> list[StandingQuery]:
        before, next_id = self._standing, self._next_id
        after = {name: entry for name, entry in kept.items() if entry.stands(now_s)}
        for query in queries:
            lifetime_s = query.terms.lifetime_s
            entry = StandingQuery(
                id=next_id,
                query=query,
                given_by=given_by,
                expires_s=None if lifetime_s is None else now_s + lifetime_s,
            )
            same = before.get(query.name)
            if (
                same is not None
                and same.stands(now_s)
                and replace(same.query, terms=query.terms) == query
            ):
                entry = replace(entry, id=same.id, given_by=same.given_by)
            else:
                next_id += 1
            after[query.name] = entry
        if len(after) > self.max_queries:
            raise QueryError(
                f"{len(after)} standing queries, expected at most {self.max_queries}; remove one "
                "(~/query `remove: NAME`) or raise max_queries"
            )
        self._standing, self._next_id = after, next_id
        ids = {standing.id for standing in after.values()}
        return [standing for standing in before.values() if standing.id not in ids]
