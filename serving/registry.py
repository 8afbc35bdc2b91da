"""Which robots have a session. One lock; nothing is done under it but looking up and replacing."""

from __future__ import annotations

import threading

from serving.session import Session


class Registry:
    """Sessions by client id."""

    def __init__(self, sessions_max: int) -> None:
        self.sessions_max = sessions_max
        self._lock = threading.Lock()
        self._sessions: dict[str, Session] = {}

    def get(self, client: str) -> Session | None:
        """The session of a robot."""
        return self._sessions.get(client)

    def all(self) -> list[Session]:
        """All sessions, as of now."""
        with self._lock:
            return list(self._sessions.values())

    def __len__(self) -> int:
        return len(self._sessions)

    def room_for(self, client: str) -> bool:
        """Whether a session of this robot has a place; its own earlier one does not count."""
        with self._lock:
            return client in self._sessions or len(self._sessions) < self.sessions_max

    def put(self, session: Session) -> Session | None:
        """Register a session in place of the robot's earlier one, which is returned. Opens come one at a time."""
        with self._lock:
            old = self._sessions.get(session.client)
            self._sessions[session.client] = session
            return old

    def remove(self, session: Session) -> bool:
        """Take out just this session; False when another one has its place already."""
        with self._lock:
            if self._sessions.get(session.client) is not session:
                return False
            del self._sessions[session.client]
            return True
