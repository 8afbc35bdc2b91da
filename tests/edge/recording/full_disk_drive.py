"""A drive whose files may not grow: python -m tests.edge.recording.full_disk_drive ROOT BYTES.

Prints JSON: whether the drive itself went on, what the recorder said, and when.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from edge.errors import RecordingError
from tests.edge.recording.drives import begin, drive


def main(root: Path, bytes_max: int) -> None:
    recorder = begin(root)
    drive(recorder, 0, 5)
    recorder.save_episode("pick")
    recorder.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_max, resource.RLIM_INFINITY))
    driven, told = 5, ""
    for number in range(5, 400):
        try:
            drive(recorder, number, 1)
        except RecordingError as err:
            told = str(err)
            break
        driven += 1
        recorder.flush()
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    written, ended = recorder.stats().written, ""
    try:
        recorder.finalize()
    except RecordingError as err:
        ended = str(err)
    print(json.dumps({"driven": driven, "told": told, "written": written, "ended": ended}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
