"""LeRobot's own rollout on a policy server: `lerobot-rollout` with `--inference.type=remote`.

    python -m edge.lerobot_rollout --inference.type=remote --inference.connect_endpoint=tcp/gpu-box:7447 \\
        --policy.path=acme/pi0_towels --robot.type=so101_follower --robot.port=/dev/ttyACM0 --task="fold the towel"

Every flag of `lerobot-rollout` stays; without `--inference.type=remote` it is `lerobot-rollout`.
"""

from __future__ import annotations

import sys
from threading import Event
from typing import TYPE_CHECKING, Any

from edge.errors import EdgeError, SettingsError

if TYPE_CHECKING:
    from lerobot.rollout import RolloutConfig, RolloutContext


def install() -> None:
    """Make LeRobot's rollout know `remote`, in this process. Twice is once. Raises SettingsError without lerobot."""
    try:
        from lerobot.scripts import lerobot_rollout as theirs
    except ImportError as err:
        remedy = "pip install 'lerobot>=0.6' with Python 3.12 or newer"
        raise SettingsError("want lerobot 0.6 or newer, with its rollout", str(err), remedy) from err
    from edge.lerobot_config import RemoteInferenceConfig
    from edge.lerobot_context import build_remote_context

    build = getattr(theirs.build_rollout_context, "local", theirs.build_rollout_context)

    def build_context(cfg: RolloutConfig, shutdown_event: Event, *processors: Any, **more: Any) -> RolloutContext:
        remote = isinstance(cfg.inference, RemoteInferenceConfig)
        return (build_remote_context if remote else build)(cfg, shutdown_event, *processors, **more)

    build_context.local = build  # type: ignore[attr-defined]
    theirs.build_rollout_context = build_context


def main() -> int:
    """LeRobot's command, with `remote` installed; exit status 1 with one message where settings or server are wrong."""
    try:
        install()
        from lerobot.scripts.lerobot_rollout import main as rollout

        rollout()
    except EdgeError as err:
        sys.stderr.write(f"{err}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
