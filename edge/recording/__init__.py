"""What was driven, written down: a LeRobot v3 dataset that no kill and no full disk takes away."""

from edge.recording.recorder import Recorder, RecorderStats, open_recorder
from edge.recording.settings import DatasetSettings

__all__ = ["DatasetSettings", "Recorder", "RecorderStats", "open_recorder"]
