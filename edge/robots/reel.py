"""Pictures of one camera of a recorded episode, decoded ahead on a thread of its own, a bounded number of them."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator

import numpy as np

from edge.errors import RobotError
from edge.robots.recorded_episode import told

AHEAD = 16  # pictures decoded ahead: half a second at 30 Hz, 15 MiB of 640 x 480
WAIT_S = 10.0  # for one picture; decoding one takes milliseconds

Frames = Callable[[], Iterator[np.ndarray]]  # one pass: the pictures of frames 0, 1, …, each an array of its own


class Reel:
    """Frames in their order. Used by one thread; decoded by another, which `open` starts and `close` ends."""

    def __init__(self, camera: str, frames: Frames, *, loop: bool) -> None:
        self.camera = camera
        self._frames, self._loop = frames, loop
        self._changed = threading.Condition()
        self._ahead: deque[np.ndarray] = deque()
        self._error: BaseException | None = None
        self._ended = False
        self._pass = 0  # raised by open and close: a thread of an older pass gives up
        self._thread: threading.Thread | None = None

    def open(self) -> None:
        """Begin at frame 0, and wait until a good number of pictures lies ready. Raises RobotError."""
        self.close()
        with self._changed:
            self._error, self._ended = None, False
            self._thread = threading.Thread(
                target=self._decode, args=(self._pass,), name=f"reel-{self.camera}", daemon=True
            )
            self._thread.start()
            self._wait(lambda: len(self._ahead) >= AHEAD or self._ended)

    def next(self) -> np.ndarray:
        """The next picture: a moment, unless decoding cannot keep up. Raises RobotError naming the camera."""
        with self._changed:
            self._wait(lambda: bool(self._ahead) or self._ended)
            if not self._ahead:
                raise RobotError(f"want a next picture of camera {self.camera}", "the recording ended", "begin again")
            picture = self._ahead.popleft()
            self._changed.notify_all()
            return picture

    def close(self) -> None:
        """End the thread and forget what was decoded."""
        with self._changed:
            self._pass += 1
            self._ended = True
            self._ahead.clear()
            self._changed.notify_all()
            thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(WAIT_S)

    def _wait(self, ready: Callable[[], bool]) -> None:
        """Wait under the lock."""
        if not self._changed.wait_for(lambda: ready() or self._error is not None, WAIT_S):
            wanted = f"want a picture of camera {self.camera} within {WAIT_S:g} s"
            raise RobotError(wanted, "decoding stands still", "look at the machine's load and the disk")
        if self._error is not None and not self._ahead:
            raise RobotError(*told(self._error, f"want the pictures of camera {self.camera}")) from self._error

    def _decode(self, at: int) -> None:
        try:
            while True:
                for picture in self._frames():
                    picture.flags.writeable = False
                    if not self._put(picture, at):
                        return
                if not self._loop:
                    break
        except Exception as err:  # noqa: BLE001 told to whoever waits for the picture
            self._finish(at, err)
        else:
            self._finish(at, None)

    def _put(self, picture: np.ndarray, at: int) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: len(self._ahead) < AHEAD or self._pass != at)
            if self._pass != at:
                return False
            self._ahead.append(picture)
            self._changed.notify_all()
            return True

    def _finish(self, at: int, error: BaseException | None) -> None:
        with self._changed:
            if self._pass == at:
                self._error, self._ended = error, True
                self._changed.notify_all()
