"""Record with LeRobot installed, and look at recordings as training does. Run by a Python that has lerobot.

    python tests/compat/check_edge_recording.py record ROOT WRITER FIRST
    python tests/compat/check_edge_recording.py train ROOT

`record` appends two episodes, of 6 and 4 frames, from frame number FIRST on. `train` prints, as JSON, what LeRobot's
dataset gives a training loop of all frames, and of those alone that a policy or a human drove (docs/recording.md).
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

from tests.edge.recording.drives import ROBOT, begin, drive, fallback, policy


def record(root: Path, writer: str, first: int) -> None:
    logging.getLogger("lerobot").setLevel(logging.ERROR)
    with begin(root, writer=writer, resume=True) as recorder:
        drive(recorder, first, 4, policy(task="pick"))
        drive(recorder, first + 4, 2, fallback(task="place"))
        recorder.save_episode()
        recorder.publish()
        drive(recorder, first + 6, 4, policy(task="place"), intervention=True)
        recorder.save_episode()
    assert recorder.stats().dropped == 0 and ROBOT.cameras


def train(root: Path) -> None:
    import numpy as np
    import torch
    from lerobot.datasets.lerobot_dataset import LeRobotDataset
    from lerobot.utils.feature_utils import dataset_to_policy_features

    dataset = LeRobotDataset("local/rollout_check", root=root, video_backend="pyav")
    sources = np.array(dataset.hf_dataset.with_format("numpy")["provenance.source"])
    driven = np.flatnonzero(np.isin(sources, ["policy", "teleop"])).tolist()
    found = {"policy_features": sorted(dataset_to_policy_features(dataset.meta.features))}
    for name, frames in (("all", dataset), ("driven", torch.utils.data.Subset(dataset, driven))):
        batches = list(torch.utils.data.DataLoader(frames, batch_size=4))
        found[name] = {
            "numbers": [int(state[0]) for batch in batches for state in batch["observation.state"]],
            "actions": [float(action[0]) for batch in batches for action in batch["action"]],
            "sources": [source for batch in batches for source in batch["provenance.source"]],
            "sessions": [session for batch in batches for session in batch["provenance.session_id"]],
            "seq_ids": [int(n) for batch in batches for n in batch["provenance.seq_id"].flatten()],
            "ages_ms": [float(age) for batch in batches for age in batch["provenance.age_ms"].flatten()],
            "interventions": [bool(i) for batch in batches for i in batch["intervention"].flatten()],
            "tasks": [task for batch in batches for task in batch["task"]],
            "levels": [
                round(float(picture.mean()) * 255) for batch in batches for picture in batch["observation.images.wrist"]
            ],
        }
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[1] == "record":
        record(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))
    else:
        train(Path(sys.argv[2]))
