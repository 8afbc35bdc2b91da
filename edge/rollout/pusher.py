"""Uploads a dataset while the robot goes on: one worker, one upload at a time, none while it is held back."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger(__name__)


class Pusher:
    """Requests come from the control thread and never wait; several at once are one."""

    def __init__(self, push: Callable[[], object] | None = None) -> None:
        self._push = push
        self._changed = threading.Condition()
        self._asked = self._held = self._ended = False
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self.pushes = 0

    def request(self) -> None:
        """Upload soon."""
        if self._push is None:
            return
        with self._changed:
            self._asked = True
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="push", daemon=True)
                self._thread.start()
            self._changed.notify_all()

    def hold(self, held: bool) -> None:
        """While held, no upload begins: a correction is being recorded."""
        with self._changed:
            self._held = held
            self._changed.notify_all()

    def close(self) -> None:
        """Begin no further upload, and wait for the one under way."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()

    def last(self) -> None:
        """One upload of everything, after `close`; where there is nowhere to upload to, nothing. Raises its error."""
        self._error = None
        if self._push is not None:
            self._try()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._ended or (self._asked and not self._held))
                if self._ended:
                    return
                self._asked = False
            self._try()

    def _try(self) -> None:
        try:
            self._push()
            self.pushes += 1
        except Exception as err:  # noqa: BLE001 - tried again by the next request, told by `last`
            _log.warning("the dataset was not pushed: %s", err)
            self._error = err
