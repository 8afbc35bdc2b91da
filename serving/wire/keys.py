"""The key tree: `<root>/<model>/<revision>/<task>/…`, the same on both sides without asking.

The root begins with `@`, which only an identical chunk matches: wildcards of strangers on a shared router never reach
the tree.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from hashlib import blake2s

from serving.wire.errors import KeyNameError
from serving.wire.limits import CLIENT_ID_MAX, SEGMENT_MAX

ROOT = "@lerobot"
RESERVED = frozenset({"status", "session", "server", "obs", "action", "reset", "alive"})

LAST = frozenset({"obs", "action", "reset", "alive", "session"})  # what keys of a robot end in
HASH_PREFIX, HASH_BYTES = "u-", 6
SAID_MAX = 80  # characters of a wrong name that are said back

_FOREIGN = re.compile(r"[^A-Za-z0-9_.-]+")
_ROOT = re.compile(r"@[A-Za-z0-9_.-]+")
_SEGMENT = re.compile(rf"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{{0,{CLIENT_ID_MAX - 2}}}[A-Za-z0-9_])?")


def sanitize(name: str) -> str:
    """One key segment from any text. Raises KeyNameError where nothing is left, or a reserved word is.

    A name in another script than Latin leaves nothing; its hash stands in for it.
    """
    segment = _FOREIGN.sub("-", name.strip()).strip("-.") or _hash(name)
    if not segment:
        wanted = f"want a name with letters or digits, {name[:SAID_MAX]!r} sanitizes to an empty chunk"
        raise KeyNameError(wanted, repr(name[:SAID_MAX]))
    if segment in RESERVED:
        wanted = f"want a free name, {name[:SAID_MAX]!r} collides with reserved chunk {segment}"
        raise KeyNameError(wanted, "", "choose another")
    if len(segment) > SEGMENT_MAX:
        raise KeyNameError(f"want a name of at most {SEGMENT_MAX} characters", f"{len(segment)}", "shorten it")
    return segment


def _hash(name: str) -> str:
    """A segment for a name that has letters or digits, none of them ASCII; "" for one that has none at all."""
    text = unicodedata.normalize("NFC", name.strip())  # the same text may be typed as other code points
    if not any(c.isalnum() for c in text):
        return ""
    return HASH_PREFIX + blake2s(text.encode(errors="replace"), digest_size=HASH_BYTES).hexdigest()


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
        if not _ROOT.fullmatch(root):
            wanted = "want a root of one chunk that begins with @, so that wildcards of strangers cannot match it"
            raise KeyNameError(wanted, repr(root[:SAID_MAX]), f"use {ROOT}")
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

        Strict, because anybody on the router chooses the key: no wildcards, nothing that `sanitize` would not make.
        """
        if not key.startswith(f"{self.prefix}/"):
            return None
        parts = key[len(self.prefix) + 1 :].split("/")
        names, last = parts[:-1], parts[-1]
        if len(names) not in (1, 2) or last not in LAST:
            return None
        if any(name in RESERVED or not _SEGMENT.fullmatch(name) for name in names):
            return None
        return names[0]
