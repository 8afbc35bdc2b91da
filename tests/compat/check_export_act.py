"""A small ACT with random weights, saved by lerobot as a checkpoint, exported, and served from the export alone.

    python tests/compat/check_export_act.py FOLDER

FOLDER is an empty one. Says nothing when the exported policy answers like lerobot itself. Run by a Python that has
lerobot.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from lerobot.configs.types import FeatureType, NormalizationMode, PolicyFeature
from lerobot.policies.act.configuration_act import ACTConfig
from lerobot.policies.act.modeling_act import ACTPolicy
from lerobot.policies.factory import make_pre_post_processors

from serving.errors import PolicyError
from serving.manifest import ModelSettings
from serving.policies.base import Moment, Request, SessionInfo
from serving.policies.export_tool import export
from serving.policies.registry import load_policy

CAMERAS = {"observation.images.front": (64, 96), "observation.images.wrist": (64, 64)}
NAMES = [f"joint_{i}.pos" for i in range(6)]
TOLERANCE = 1e-4


def checkpoint(folder: Path, mode: NormalizationMode) -> tuple[ACTPolicy, tuple]:
    """A small ACT as training would leave it, and its processors."""
    torch.manual_seed(0)
    visual = {n: PolicyFeature(type=FeatureType.VISUAL, shape=(3, *size)) for n, size in CAMERAS.items()}
    config = ACTConfig(
        input_features={"observation.state": PolicyFeature(type=FeatureType.STATE, shape=(6,)), **visual},
        output_features={"action": PolicyFeature(type=FeatureType.ACTION, shape=(6,))},
        normalization_mapping={"VISUAL": NormalizationMode.MEAN_STD, "STATE": mode, "ACTION": mode},
        chunk_size=10, n_action_steps=10, dim_model=32, n_heads=2, dim_feedforward=64, n_encoder_layers=1,
        latent_dim=8, n_vae_encoder_layers=1, pretrained_backbone_weights=None, device="cpu", push_to_hub=False,
    )  # fmt: skip
    policy = ACTPolicy(config).eval()
    rng = np.random.default_rng(0)
    vector = {
        "mean": rng.normal(size=6), "std": rng.uniform(0.5, 2, 6), "min": rng.uniform(-2, -1, 6),
        "max": rng.uniform(1, 2, 6), "q01": rng.uniform(-2, -1, 6), "q99": rng.uniform(1, 2, 6),
    }  # fmt: skip
    picture = {"mean": np.full((3, 1, 1), 0.4), "std": np.full((3, 1, 1), 0.3)}
    stats = {"observation.state": vector, "action": vector, **{name: picture for name in CAMERAS}}
    processors = make_pre_post_processors(config, dataset_stats=stats)
    policy.save_pretrained(folder)
    for processor in processors:
        processor.save_pretrained(folder)
    return policy, processors


def local(policy: ACTPolicy, processors: tuple, moment: Moment) -> np.ndarray:
    """LeRobot's own answer: preprocess, predict a chunk, postprocess."""
    before, after = processors
    observation = {"observation.state": torch.from_numpy(moment.state)}
    for name, rgb in moment.images.items():
        observation[name] = torch.from_numpy(rgb).permute(2, 0, 1).float() / 255
    with torch.no_grad():
        return after(policy.predict_action_chunk(before(observation)))[0].numpy()


def main(folder: Path) -> None:
    """Compare, for each normalisation, alone and in a batch."""
    for mode in (NormalizationMode.MEAN_STD, NormalizationMode.MIN_MAX):
        place = folder / mode.value
        policy, processors = checkpoint(place / "checkpoint", mode)
        out = export(str(place / "checkpoint"), place / "exported", fps=25, batch_max=4, action_names=NAMES)
        served = load_policy(ModelSettings(repo_or_path=str(out), device="cpu"))
        spec = served.spec
        assert (spec.policy_type, spec.chunk_size, spec.state_dim, spec.fps) == ("act", 10, 6, 25.0), spec
        assert list(spec.action_names) == NAMES and {c.name: (c.height, c.width) for c in spec.cameras} == CAMERAS
        rng = np.random.default_rng(1)
        moments = [
            Moment(
                rng.normal(size=6).astype(np.float32),
                {n: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for n, size in CAMERAS.items()},
            )
            for _ in range(3)
        ]
        sessions = [served.open_session(SessionInfo(str(i), str(i))) for i in range(3)]
        raws = served.predict([s.prepare(Request(m)) for s, m in zip(sessions, moments, strict=True)])
        expected = [local(policy, processors, moment) for moment in moments]
        for session, raw, wanted in zip(sessions, raws, expected, strict=True):
            worst = np.abs(session.finish(raw).robot - wanted).max()
            assert worst < TOLERANCE, f"{mode}: {worst}"
        assert np.abs(expected[0] - expected[1]).max() > 100 * TOLERANCE, "the answers do not depend on the input"
    check_refusals(folder)


def check_refusals(folder: Path) -> None:
    """What is no checkpoint, and a processor that does more than normalise, are refused by name."""
    place = folder / "MEAN_STD" / "checkpoint"
    path = place / "policy_preprocessor.json"
    saved = json.loads(path.read_text())
    rename = next(step for step in saved["steps"] if "rename" in step["registry_name"])
    rename["config"]["rename_map"] = {"observation.images.a": "observation.images.front"}
    path.write_text(json.dumps(saved))
    for source, said in ((folder / "nothing", "no such folder"), (place, "processors that only normalise")):
        try:
            export(str(source), folder / "out")
        except PolicyError as err:
            assert said in str(err), err
        else:
            raise AssertionError(f"{source} was exported")
        assert not (folder / "out").exists()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
