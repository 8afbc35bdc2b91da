"""Whether a robot gets a session: every check, in the order in which it is told."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from serving.policies.base import PolicySpec
from serving.session import Agreement
from serving.wire import features
from serving.wire.errors import RETRYABLE_REJECTS, RejectCode
from serving.wire.header import MIN_SCHEMA_VERSION, SCHEMA_VERSION
from serving.wire.messages import BOTH, ROBOT, SessionOpen

FPS_TOLERANCE_HZ = 1e-6
NAMED_MAX = 8  # names listed in one message
SAID_MAX = 80  # characters of what a client said that are said back


@dataclass(frozen=True)
class Rules:
    """What the service insists on."""

    spec: PolicySpec
    trained_fps: float
    rtc: bool = False  # the service continues prefixes
    pinned_task: str | None = None
    strict_fps: bool = False
    sessions_max: int = 5


@dataclass(frozen=True)
class Verdict:
    """Accepted with an agreement, or refused with a code and the reason."""

    agreement: Agreement | None
    code: RejectCode = RejectCode.NONE
    error: str = ""
    warnings: list[str] = field(default_factory=list)

    @property
    def retryable(self) -> bool:
        """Whether the same question may get another answer later."""
        return self.code in RETRYABLE_REJECTS


def judge(ask: SessionOpen, rules: Rules, active: int, room: bool) -> Verdict:
    """The first failing check refuses; differences that do no harm are warnings."""
    spec = rules.spec
    if not MIN_SCHEMA_VERSION <= ask.schema_version <= SCHEMA_VERSION:
        known = f"{MIN_SCHEMA_VERSION} to {SCHEMA_VERSION}"
        return _refuse(RejectCode.SCHEMA, f"want schema version {known}, got {ask.schema_version}: update the client")
    if not room:
        return _refuse(RejectCode.FULL, f"server full: {active}/{rules.sessions_max} sessions active")
    if spec.action_names and tuple(ask.action_names) != spec.action_names:
        return _refuse(RejectCode.ACTION_NAMES, _names_differ(ask.action_names, spec.action_names))
    if ask.state_dim and spec.state_dim and ask.state_dim != spec.state_dim:
        return _refuse(RejectCode.STATE_DIM, f"want a state of {spec.state_dim} values, got {ask.state_dim}")
    if missing := [c.name for c in spec.cameras if c.name not in ask.camera_names]:
        return _refuse(RejectCode.CAMERAS, f"want cameras {', '.join(missing)}, got {_list(ask.camera_names)}")
    if rules.pinned_task is not None and ask.task and ask.task != rules.pinned_task:
        return _refuse(RejectCode.TASK, f"want the task {rules.pinned_task!r}, got {ask.task[:SAID_MAX]!r}")
    agreed = features.agreed(features.ALL, ask.features)
    if spec.history_frames > 1 and features.HISTORY not in agreed:
        wanted = f"want a client that sends the last {spec.history_frames} moments (feature {features.HISTORY})"
        return _refuse(RejectCode.FEATURES, f"{wanted}, got features {_list(ask.features)}")
    warnings = []
    if ask.fps and rules.trained_fps and not abs(ask.fps - rules.trained_fps) <= FPS_TOLERANCE_HZ:  # NaN too
        text = f"the policy was trained at {rules.trained_fps:g} Hz, the robot runs at {ask.fps:g} Hz"
        if rules.strict_fps:
            return _refuse(RejectCode.FPS, text)
        warnings.append(text)
    if ask.policy_type and ask.policy_type != spec.policy_type:
        warnings.append(f"the robot expects a {ask.policy_type[:SAID_MAX]} policy, this is {spec.policy_type}")
    if ask.rtc_enabled and not rules.rtc:
        warnings.append("RTC is not active here: chunks are appended, expect visible seams between them")
    return Verdict(_agreement(ask, rules, agreed), warnings=warnings)


def _agreement(ask: SessionOpen, rules: Rules, agreed: frozenset[str]) -> Agreement:
    rtc = rules.rtc and ask.rtc_enabled
    # without both forms there is no prefix to continue in model space
    one_form = (
        features.ONE_FORM in agreed and ask.chunk_form == ROBOT and not (rtc and rules.spec.prefix_form == "model")
    )
    return Agreement(
        features=agreed,
        schema_version=ask.schema_version,
        rtc=rtc,
        chunk_form=ROBOT if one_form else BOTH,
        f16=features.F16 in agreed and ask.accept_f16,
        task=ask.task,
        fps=ask.fps,
        robot_type=ask.robot_type,
        action_names=tuple(ask.action_names),
    )


def _refuse(code: RejectCode, error: str) -> Verdict:
    return Verdict(None, code, error)


def _names_differ(got: Iterable[str], wanted: Iterable[str]) -> str:
    """Where two lists of action names part."""
    got, wanted = list(got), list(wanted)
    text = f"want action names in this order: {_list(wanted)}; got {_list(got)}"
    at = next((i for i, (a, b) in enumerate(zip(got, wanted, strict=False)) if a != b), min(len(got), len(wanted)))
    return f"{text}; they part at column {at}" if sorted(got) == sorted(wanted) else text


def _list(names: Iterable[str]) -> str:
    names = list(names)
    more = f" and {len(names) - NAMED_MAX} more" if len(names) > NAMED_MAX else ""
    return ", ".join(name[:SAID_MAX] for name in names[:NAMED_MAX]) + more if names else "none"
