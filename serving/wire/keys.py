"""The key tree: `<root>/<model>/<revision>/<task>/…`, the same on both sides without asking.

The root begins with `@`, which only an identical chunk matches: wildcards of strangers on a shared router never reach
the tree.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from serving.wire.errors import KeyNameError
from serving.wire.limits import CLIENT_ID_MAX, SEGMENT_MAX

ROOT = "@lerobot"
RESERVED = frozenset({"status", "session", "server", "obs", "action", "reset", "alive"})

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")
_CLIENT_ID = re.compile(rf"[A-Za-z0-9_.-]{{1,{CLIENT_ID_MAX}}}")


def sanitize(name: str) -> str:
    """One key segment from any text. Raises KeyNameError where nothing is left, or a reserved word is."""
    segment = _FOREIGN.sub("-", name.strip()).strip("-.")
    if not segment:
        raise KeyNameError(f"want a name with letters or digits, {name!r} sanitizes to an empty chunk", repr(name))
    if segment in RESERVED:
        raise KeyNameError(f"want a free name, {name!r} collides with reserved chunk {segment}", "", "choose another")
    if len(segment) > SEGMENT_MAX:
        raise KeyNameError(f"want a name of at most {SEGMENT_MAX} characters", f"{len(segment)}", "shorten it")
    return segment


def client_id(name: str) -> str:
    """A robot's id as it stands in keys. Raises KeyNameError."""
    segment = sanitize(name)
    if len(segment) > CLIENT_ID_MAX:
        raise KeyNameError(f"want an id of at most {CLIENT_ID_MAX} characters", f"{len(segment)}", "shorten it")
    return segment


@dataclass(frozen=True, slots=True)
class Keys:
    """All keys of one service."""

    prefix: str

    @classmethod
    def of(cls, model: str, revision: str = "main", task: str = "", *, service: str = "", root: str = ROOT) -> Keys:
        """Keys from what both sides know: the model, its revision, and the task (or the service's own name)."""
        last = sanitize(service or task or "default")
        return cls(f"{root}/{sanitize(model)}/{sanitize(revision or 'main')}/{last}")

    @property
    def status(self) -> str:
        """Queryable: who serves here."""
        return f"{self.prefix}/status"

    @property
    def session(self) -> str:
        """Queryable: open and close."""
        return f"{self.prefix}/session"

    def session_of(self, client: str) -> str:
        """The same for one robot: its own key, which a router can keep others from."""
        return f"{self.prefix}/{client}/session"

    @property
    def server_alive(self) -> str:
        """Liveliness token of whoever serves."""
        return f"{self.prefix}/server/alive"

    def replica_alive(self, server: str) -> str:
        """Liveliness token of one replica."""
        return f"{self.prefix}/server/{server}/alive"

    def observation(self, client: str, server: str = "") -> str:
        """Where a robot puts observations; to one replica only when its id is given."""
        return f"{self.prefix}/{client}/{server}/obs" if server else f"{self.prefix}/{client}/obs"

    def action(self, client: str) -> str:
        """Where a robot gets chunks and events."""
        return f"{self.prefix}/{client}/action"

    def reset(self, client: str, server: str = "") -> str:
        """Queryable: a new episode begins."""
        return f"{self.prefix}/{client}/{server}/reset" if server else f"{self.prefix}/{client}/reset"

    def alive(self, client: str) -> str:
        """Liveliness token of a robot."""
        return f"{self.prefix}/{client}/alive"

    def client_of(self, key: str) -> str | None:
        """The robot that a key of this service names; None when it is no such key.

        Strict, because anybody on the router chooses the key: no wildcards, no foreign characters, no reserved words.
        """
        if not key.startswith(f"{self.prefix}/"):
            return None
        parts = key[len(self.prefix) + 1 :].split("/")
        if len(parts) not in (2, 3) or parts[0] in RESERVED or not all(_CLIENT_ID.fullmatch(p) for p in parts):
            return None
        return parts[0]
