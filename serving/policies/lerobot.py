"""Any LeRobot checkpoint: its network shared, its processors one pair a robot, its chunks as lerobot itself has them.

How a family is called is declared in `serving.policies.lerobot_families`; nothing is found out by trying. lerobot is
imported only where a checkpoint is loaded.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import TYPE_CHECKING

from serving.errors import PolicyError
from serving.manifest import ModelSettings, RtcSettings
from serving.policies.base import PolicySpec
from serving.policies.exported import check_device
from serving.policies.lerobot_checkpoint import INSTALL, Checkpoint, find, joined
from serving.policies.lerobot_families import BATCH_MAX, Family, Precision, chunk_rows, classify, moments, precision
from serving.policies.lerobot_spec import Described, LeRobotOptions
from serving.policies.one_thread import OneThread
from serving.policies.options import checked

if TYPE_CHECKING:
    import torch
    from lerobot.configs import PreTrainedConfig

    from serving.policies.lerobot_policy import LeRobotPolicy

log = logging.getLogger(__name__)


def load(model: ModelSettings, rtc: RtcSettings | None = None) -> LeRobotPolicy:
    """The checkpoint `model.repo_or_path` at `model.revision`. Raises PolicyError on whatever does not fit together."""
    options = checked(LeRobotOptions, model.options, "model.options of a LeRobot checkpoint")
    checkpoint = find(model.repo_or_path, model.revision)
    config = checkpoint.config()
    family = classify(config)  # before torch is loaded: what is refused is refused at once
    how = precision(config["type"], family, model.dtype)
    try:
        import lerobot  # noqa: F401
    except ImportError as err:
        raise PolicyError("want lerobot to load this checkpoint", f"no module {err.name}", INSTALL) from err
    check_device(model.device)
    with _reading(checkpoint, config["type"]):
        policy = _assembled(model, rtc or RtcSettings(), options, checkpoint, family, how)
    log.info("loaded %s at %s on %s", model.repo_or_path, checkpoint.revision, model.device)
    if family.note:
        log.warning("%s is served to one robot at a time: %s", config["type"], family.note)
    return policy


def _assembled(
    model: ModelSettings,
    rtc: RtcSettings,
    options: LeRobotOptions,
    checkpoint: Checkpoint,
    family: Family,
    how: Precision,
) -> LeRobotPolicy:
    from serving.policies import lerobot_model as network
    from serving.policies.lerobot_policy import LeRobotPolicy
    from serving.policies.lerobot_processors import Template

    config = network.read_config(checkpoint, model.device)
    if how.own:
        config.dtype = how.own
    active = rtc.enabled and family.rtc
    network.set_rtc(config, rtc if active else None)
    parts = network.parts_of(checkpoint, model.adapter)
    template = Template(checkpoint, config)
    described = Described(config, template, options)
    spec = PolicySpec(
        policy_type=config.type,
        model_repo=model.repo_or_path,
        model_revision=checkpoint.revision,
        action_names=described.action_names(),
        action_dim=described.action_dim(),
        state_dim=described.state_dim(),
        cameras=described.cameras(),
        chunk_size=chunk_rows(family, vars(config) | {"type": config.type}),
        fps=described.fps(),
        shared=family.shared,
        batch_max=BATCH_MAX if family.shared else 1,
        mixed_delays=True,  # each sample has its own delay and prefix
        rtc=active,
        execution_horizon=rtc.execution_horizon if active else 0,
        prefix_form=("robot" if template.relative else "model") if active else "",
        history_frames=moments(vars(config)) if family.history else 1,
        checkpoint_hash=joined(part.weights_hash for part in parts),
        normalisation_hash=template.hash,
    )
    policy = network.load_network(parts, config, single=how.single)
    if active:
        network.install_rtc(policy, options.guidance)
    network.compile_network(policy, family, model.compile)
    return LeRobotPolicy(
        policy,
        spec,
        family,
        template,
        autocast=how.autocast,
        differentiates=active and options.guidance == "vjp",
        noise=_noise(options.noise_seed, family, config),
        thread=OneThread("serving-compiled") if model.compile.enabled else None,
    )


def _noise(seed: int | None, family: Family, config: PreTrainedConfig) -> torch.Tensor | None:
    """What every request starts from, where that is asked for."""
    if seed is None:
        return None
    if not family.noise:
        got = f"{config.type}, which draws its own or none"
        raise PolicyError("want a policy that takes noise for noise_seed", got, "leave noise_seed out")
    import torch

    return torch.randn([getattr(config, name) for name in family.noise], generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def _reading(checkpoint: Checkpoint, kind: str) -> Iterator[None]:
    """What lerobot cannot read of a checkpoint, as a PolicyError."""
    try:
        yield
    except PolicyError:
        raise
    except ImportError as err:
        got = (str(err).strip().splitlines() or [f"no module {err.name}"])[0]
        raise PolicyError(f"want what {kind} needs beside lerobot", got, f"pip install 'lerobot[{kind}]'") from err
    except Exception as err:
        got = f"{type(err).__name__}: {(str(err).strip().splitlines() or [''])[0]}"
        remedy = "load it with the release of lerobot that saved it, or save it again"
        raise PolicyError(f"want a checkpoint that lerobot can load in {checkpoint.folder}", got, remedy) from err
