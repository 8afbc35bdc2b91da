"""Served answers held against lerobot's own inference, on checkpoints that lerobot saved.

    python tests/compat/check_serving_lerobot.py FOLDER CHECK...

A CHECK is one of the functions below, FOLDER an empty one. Run by a Python that has lerobot. Pictures travel raw, so
that what is asked on both sides is equal to the last bit.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.factory import get_policy_class
from safetensors.torch import load_file, save_file

from network.memory_transport import Hub, MemoryTransport
from serving.assemble import Service, assemble
from serving.errors import PolicyError
from serving.manifest import Manifest, ModelSettings, RtcSettings
from serving.policies import lerobot
from serving.policies.base import Moment, Request, SessionInfo
from serving.policies.lerobot_policy import LeRobotPolicy
from serving.wire.images import encode_image
from serving.wire.messages import BOTH, Frame
from serving.wire.tensors import encode_tensor
from tests.compat import tiny_checkpoints as tiny
from tests.compat.local_inference import ROBOT_TYPE, Local, Seen, seeded, seen
from tests.serving.client import Client

TASK = "pick up the cup"
OTHER_TASK = "fold the towel slowly"
ROUNDS = 4
HORIZON = 4
ANSWER_S = 60.0
BATCH_TOLERANCE = 1e-4  # other batch sizes take other kernels


def settings(folder: Path, **model: Any) -> ModelSettings:
    return ModelSettings(repo_or_path=str(folder), device="cpu", **model)


def load(model: ModelSettings) -> LeRobotPolicy:
    """A policy by itself, with a horizon that the small ones have rows for."""
    return lerobot.load(model, RtcSettings(execution_horizon=HORIZON))


@contextmanager
def served(folder: Path, model: dict[str, Any] | None = None, **values: Any) -> Iterator[tuple[Service, Hub]]:
    """The whole service, as a manifest makes it, on a network inside the process."""
    hub = Hub()
    manifest = Manifest.model_validate({
        "model": {"repo_or_path": str(folder), "device": "cpu", **(model or {})},
        "default_task": TASK,
        "rtc": {"execution_horizon": HORIZON},
        "zenoh": {"mode": "peer", "listen_endpoints": ["tcp/127.0.0.1:0"]},
        "health_port": 0,
        **values,
    })  # fmt: skip
    service = assemble(manifest, transport=MemoryTransport(hub))
    service.start()
    try:
        yield service, hub
    finally:
        service.stop()


def robot(service: Service, hub: Hub, name: str, **values: Any) -> Client:
    """A robot with a session."""
    client = Client(
        MemoryTransport(hub), service.daemon.settings.keys, name,
        quality=0, resize=False, chunk_form=BOTH, robot_type=ROBOT_TYPE, **values,
    )  # fmt: skip
    client.handshake()
    return client


def ask(client: Client, what: Seen, **fields: Any) -> tuple[np.ndarray, np.ndarray]:
    """The served chunk, in model and in robot space."""
    answer = client.ask(what.state, what.images, ANSWER_S, **fields).answer
    return answer.model, answer.robot


def equal(got: tuple[np.ndarray, np.ndarray], wanted: tuple[np.ndarray, np.ndarray], what: str) -> None:
    for name, a, b in zip(("model", "robot"), got, wanted, strict=True):
        assert np.array_equal(a, b), f"{what}: {name} space differs by {np.abs(a - b).max()}"


def two_robots(folder: Path, jobs: dict[str, str], **values: Any) -> int:
    """Robots with tasks of their own ask at the same time; each gets what lerobot alone would have told it."""
    local = Local(folder)
    sights = {name: [seen(local.config, 100 * i + n) for n in range(ROUNDS)] for i, name in enumerate(jobs)}
    wanted = {name: [local.chunk(s, jobs[name]) for s in sights[name]] for name in jobs}
    got: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {name: [] for name in jobs}
    with served(folder, batching={"batch_max": 1}, **values) as (service, hub):
        robots = {name: robot(service, hub, name, task=task) for name, task in jobs.items()}

        def run(name: str) -> None:
            for sight in sights[name]:
                got[name].append(ask(robots[name], sight))

        with seeded(service.daemon.policy._network, 0):
            threads = [threading.Thread(target=run, args=(name,)) for name in jobs]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(ANSWER_S)
    for name in jobs:
        assert len(got[name]) == ROUNDS, f"{name} got {len(got[name])} answers"
        for n in range(ROUNDS):
            equal(got[name][n], wanted[name][n], f"{name}, request {n}")
    first = [wanted[name][0][1] for name in jobs]
    assert not np.allclose(first[0], first[1]), "both robots are told the same: cross-talk would not show"
    return ROUNDS * len(jobs)


def act(folder: Path) -> dict[str, Any]:
    """ACT: two robots, and row by row the actions of lerobot's own queue."""
    checkpoint = tiny.act(folder / "act")
    answers = two_robots(checkpoint, {"left": TASK, "right": OTHER_TASK})
    local, sight = Local(checkpoint), seen(Local(checkpoint).config, 5)
    with served(checkpoint) as (service, hub):
        spec = service.daemon.policy.spec
        assert spec.shared and not spec.rtc and spec.chunk_size == 6
        _, actions = ask(robot(service, hub, "left"), sight)
    for row in actions:
        assert np.array_equal(row, local.action(sight, TASK)), "lerobot's queue gives another action"
    return {"answers": answers}


def smolvla(folder: Path) -> dict[str, Any]:
    """SmolVLA: two robots with tasks of different length, without and with relative actions."""
    counts = {}
    for relative in (False, True):
        checkpoint = tiny.smolvla(folder / f"smolvla-{relative}", relative=relative)
        counts[f"relative {relative}"] = two_robots(checkpoint, {"left": TASK, "right": OTHER_TASK})
    return counts


def pi0(folder: Path) -> dict[str, Any]:
    """pi0 and pi05, without and with relative actions: the gripper stays absolute."""
    counts = {}
    for kind, relative in (("pi0", False), ("pi0", True), ("pi05", False)):
        checkpoint = tiny.pi0(folder / f"{kind}-{relative}", kind=kind, relative=relative)
        counts[f"{kind}, relative {relative}"] = two_robots(checkpoint, {"left": TASK, "right": OTHER_TASK})
    return counts


def history(folder: Path) -> dict[str, Any]:
    """Policies that look back: tick by tick what lerobot's own queues of observations lead to."""
    counts = {}
    for kind in ("diffusion", "vqbet"):
        checkpoint = getattr(tiny, kind)(folder / kind)
        counts[kind] = _looks_back(checkpoint)
    return counts


def _looks_back(checkpoint: Path) -> int:
    local = Local(checkpoint)
    sights = {name: [seen(local.config, 100 * i + n) for n in range(10)] for i, name in enumerate(("left", "right"))}
    compared = 0
    with served(checkpoint) as (service, hub), seeded(service.daemon.policy._network, 0):
        spec = service.daemon.policy.spec
        assert spec.shared and spec.history_frames == local.config.n_obs_steps > 1
        robots = {name: robot(service, hub, name) for name in sights}
        for tick in range(0, 10 - spec.chunk_size, spec.chunk_size):
            for name, client in robots.items():
                earlier = sights[name][max(0, tick - spec.history_frames + 1) : tick]
                frames = [frame(s, age=len(earlier) - i) for i, s in enumerate(earlier)]
                _, actions = ask(client, sights[name][tick], history=frames, episode_start=tick == 0)
                compared += _follows(checkpoint, sights[name], tick, actions)
    return compared


def _follows(checkpoint: Path, sights: list[Seen], start: int, actions: np.ndarray) -> int:
    """Whether a served chunk is what lerobot executes from a control step on; the number of actions compared."""
    local = Local(checkpoint)
    for tick in range(start + len(actions)):
        with torch.inference_mode():
            action = local.action(sights[tick], TASK)
        if tick >= start:
            assert np.array_equal(action, actions[tick - start]), f"step {tick} differs"
    return len(actions)


def frame(sight: Seen, age: int) -> Frame:
    images = {name: encode_image(rgb, 0) for name, rgb in sight.images.items()}
    return Frame(age_steps=age, state=encode_tensor(sight.state), images=images)


def remembered(folder: Path) -> dict[str, Any]:
    """Robots that send no history are remembered, each by itself, and forgotten with the episode."""
    policy = load(settings(tiny.vqbet(folder / "vqbet")))
    config = policy._network.config
    sights = {name: [seen(config, 100 * i + n) for n in range(4)] for i, name in enumerate(("left", "right"))}
    silent = {name: policy.open_session(SessionInfo(name, name)) for name in sights}
    for n in range(4):
        for name, session in silent.items():
            told = policy.open_session(SessionInfo(name, name))
            earlier = [moment(s) for s in sights[name][max(0, n - 2) : n]]
            with_history = answered(policy, told, Request(moment(sights[name][n]), history=earlier))
            assert np.array_equal(answered(policy, session, Request(moment(sights[name][n]))), with_history), (name, n)
    silent["left"].reset()
    fresh = policy.open_session(SessionInfo("fresh", "fresh"))
    request = Request(moment(sights["right"][0]))
    assert np.array_equal(answered(policy, silent["left"], request), answered(policy, fresh, request))
    return {"compared": 9}


def moment(sight: Seen) -> Moment:
    return Moment(sight.state, sight.images)


def answered(policy: LeRobotPolicy, session: Any, request: Request) -> np.ndarray:
    """One robot alone; what a policy draws, it draws anew each time."""
    torch.manual_seed(0)
    (raw,) = policy.predict([session.prepare(request)])
    return session.finish(raw).robot


def batches(folder: Path) -> dict[str, Any]:
    """Four robots in one call get what each gets alone: other tasks, delays and tails beside each other."""
    worst = {}
    for kind in ("act", "smolvla", "pi0"):
        options = {"noise_seed": 3} if kind != "act" else {}
        policy = load(settings(getattr(tiny, kind)(folder / kind), options=options))
        draw = np.random.default_rng(1)
        sessions = [policy.open_session(SessionInfo(f"{i}", f"{i}")) for i in range(4)]
        requests = []
        for i, (task, rows) in enumerate(((TASK, 0), (OTHER_TASK, 4), ("fold", 2), (TASK, 8))):
            tail = draw.normal(size=(rows, tiny.DIM)).astype(np.float32) if rows else None
            what = seen(policy._network.config, i)
            requests.append(Request(moment(what), task=task, delay_steps=i, prefix_model=tail))
        alone = [answered(policy, s, r) for s, r in zip(sessions, requests, strict=True)]
        calls = []
        plain = policy._network.predict_action_chunk
        policy._network.predict_action_chunk = lambda b, plain=plain, calls=calls, **k: (
            calls.append(1),
            plain(b, **k),
        )[1]
        raws = policy.predict([s.prepare(r) for s, r in zip(sessions, requests, strict=True)])
        together = [s.finish(raw).robot for s, raw in zip(sessions, raws, strict=True)]
        assert len(calls) == 1, f"{kind} took {len(calls)} calls"
        worst[kind] = float(max(np.abs(a - b).max() for a, b in zip(alone, together, strict=True)))
        assert worst[kind] < BATCH_TOLERANCE, worst
    return worst


def sizes(folder: Path) -> dict[str, Any]:
    """Pictures of other sizes go in calls of their own, answers in the order of the requests."""
    policy = load(settings(tiny.act(folder / "act")))
    config = policy._network.config
    small, large = seen(config, 1), seen(config, 2)
    large = Seen(large.state, {k: np.repeat(np.repeat(v, 2, 0), 2, 1) for k, v in large.images.items()})
    sessions = [policy.open_session(SessionInfo(f"{i}", f"{i}")) for i in range(3)]
    requests = [Request(moment(sight)) for sight in (small, large, small)]
    raws = policy.predict([s.prepare(r) for s, r in zip(sessions, requests, strict=True)])
    assert torch.allclose(raws[0], raws[2]) and not torch.allclose(raws[0], raws[1])
    return {}


def noise(folder: Path) -> dict[str, Any]:
    """With a seed for the noise equal requests get equal answers, and others without one."""
    checkpoint = tiny.smolvla(folder / "smolvla")
    for seed, same in ((3, True), (None, False)):
        policy = load(settings(checkpoint, options={"noise_seed": seed}))
        request = Request(moment(seen(policy._network.config, 1)), task=TASK)
        session = policy.open_session(SessionInfo("a", "a"))
        first, second = (policy.predict([session.prepare(request)])[0].numpy() for _ in range(2))
        assert np.array_equal(first, second) is same, seed
    refused(lambda: load(settings(tiny.act(folder / "act"), options={"noise_seed": 3})), "noise_seed")
    refused(lambda: lerobot.load(settings(checkpoint), RtcSettings(execution_horizon=9)), "at most 8")
    refused(lambda: lerobot.load(settings(checkpoint), RtcSettings(execution_horizon=4, mode="trained")), "guided")
    return {}


def guidance(folder: Path) -> dict[str, Any]:
    """Both forms of correction hold the first rows to the tail, and are not the same."""
    checkpoint = tiny.smolvla(folder / "smolvla", num_steps=10)
    off = {}
    for form in ("error", "vjp"):
        policy = load(settings(checkpoint, options={"noise_seed": 3, "guidance": form}))
        session = policy.open_session(SessionInfo("a", "a"))
        what = moment(seen(policy._network.config, 1))
        free = answered_model(policy, session, Request(what, task=TASK))
        tail = free[:4] + 0.5
        guided = answered_model(policy, session, Request(what, task=TASK, delay_steps=4, prefix_model=tail))
        off[form] = float(np.abs(guided[:4] - tail).max())
        assert off[form] < 0.25 and np.abs(free[:4] - tail).max() > 0.49, off
    assert off["error"] != off["vjp"], off
    return off


def answered_model(policy: LeRobotPolicy, session: Any, request: Request) -> np.ndarray:
    (raw,) = policy.predict([session.prepare(request)])
    return session.finish(raw).model


def precision(folder: Path) -> dict[str, Any]:
    """Half precision, under autocast or as the family has it, stays near; what a family cannot is refused."""
    off = {}
    for kind in ("act", "pi0"):
        checkpoint, answers = getattr(tiny, kind)(folder / kind), {}
        for dtype in (None, "float32", "bfloat16"):
            policy = load(settings(checkpoint, dtype=dtype))
            session = policy.open_session(SessionInfo("a", "a"))
            request = Request(moment(seen(policy._network.config, 1)), task=TASK)
            answers[dtype] = answered(policy, session, request)
        assert np.array_equal(answers[None], answers["float32"])
        off[kind] = float(np.abs(answers["bfloat16"] - answers[None]).max())
        assert 0 < off[kind] < 0.1, off
        refused(lambda checkpoint=checkpoint: load(settings(checkpoint, dtype="float64")), "float64")
    return off


def adapters(folder: Path) -> dict[str, Any]:
    """A LoRA adapter named by the manifest, and a checkpoint that is one, answer as peft itself does."""
    from peft import LoraConfig, PeftModel, get_peft_model

    checkpoint = tiny.act(folder / "act")
    local = Local(checkpoint)
    lora = LoraConfig(r=2, target_modules=r"model\.(encoder|decoder).*linear[12]", init_lora_weights=False)
    torch.manual_seed(5)
    get_peft_model(local.policy, lora).save_pretrained(folder / "adapter")
    local = Local(checkpoint)
    plain, what = local.chunk(seen(local.config, 1), TASK), seen(local.config, 1)
    local.policy = PeftModel.from_pretrained(local.policy, folder / "adapter").eval()
    wanted = local.chunk(what, TASK)
    whole = folder / "whole"  # an adapter with the config and processors of its base, as training saves it
    whole.mkdir()
    for path in [*checkpoint.glob("*.json"), *checkpoint.glob("policy_*"), *(folder / "adapter").iterdir()]:
        (whole / path.name).write_bytes(path.read_bytes())
    values = json.loads((whole / "adapter_config.json").read_text()) | {"base_model_name_or_path": str(checkpoint)}
    (whole / "adapter_config.json").write_text(json.dumps(values))
    hashes = {load(settings(checkpoint)).spec.checkpoint_hash}
    off = []
    for model in (settings(checkpoint, adapter={"repo_or_path": str(folder / "adapter")}), settings(whole)):
        policy = load(model)
        session = policy.open_session(SessionInfo("a", "a"))
        got = answered(policy, session, Request(moment(what), task=TASK))
        off.append(float(np.abs(got - wanted[1]).max()))
        assert off[-1] < 1e-4 < np.abs(plain[1] - wanted[1]).max(), off
        hashes.add(policy.spec.checkpoint_hash)
    assert len(hashes) == 2, "the adapter is not in the hash of the weights"
    nowhere = {"repo_or_path": str(folder / "nowhere")}
    refused(lambda: load(settings(checkpoint, adapter=nowhere)), "nowhere")
    return {"off by": off}


def revisions(folder: Path) -> dict[str, Any]:
    """A branch is resolved to its commit, and that is loaded; a folder is known by its content."""
    import huggingface_hub.constants as hub

    commits = {"main": "a" * 40, "v2": "b" * 40}
    place = Path(hub.HF_HUB_CACHE) / "models--robots--tiny"
    for branch, commit in commits.items():
        tiny.act(place / "snapshots" / commit)
        (place / "refs").mkdir(exist_ok=True)
        (place / "refs" / branch).write_text(commit)
    weights = place / "snapshots" / commits["v2"] / "model.safetensors"
    save_file({name: values + 0.01 for name, values in load_file(weights).items()}, weights)
    specs = {r: load(ModelSettings(repo_or_path="robots/tiny", revision=r, device="cpu")).spec for r in commits}
    assert {r: s.model_revision for r, s in specs.items()} == commits
    assert specs["main"].checkpoint_hash != specs["v2"].checkpoint_hash
    assert specs["main"].normalisation_hash == specs["v2"].normalisation_hash != ""
    refused(lambda: load(ModelSettings(repo_or_path="robots/tiny", revision="v3", device="cpu")), "v3")
    local = place / "snapshots" / commits["main"]
    first = load(settings(local)).spec
    assert first.checkpoint_hash == specs["main"].checkpoint_hash and len(first.model_revision) == 40
    stats = local / "policy_preprocessor_step_3_normalizer_processor.safetensors"
    save_file({name: values + 1 for name, values in load_file(stats).items()}, stats)
    second = load(settings(local)).spec
    assert second.model_revision != first.model_revision
    assert second.normalisation_hash != first.normalisation_hash
    assert second.checkpoint_hash == first.checkpoint_hash
    return {}


def damage(folder: Path) -> dict[str, Any]:
    """Checkpoints that lerobot would load half, or with a word of warning, are refused."""
    checkpoint = tiny.act(folder / "act")
    weights = checkpoint / "model.safetensors"
    whole = load_file(weights)
    some = {k: v for k, v in whole.items() if "action_head" not in k}
    save_file(some, weights)
    refused(lambda: load(settings(checkpoint)), "action_head")
    save_file(whole, weights)
    load(settings(checkpoint))
    weights.write_bytes(weights.read_bytes()[:1000])
    refused(lambda: load(settings(checkpoint)), "lerobot can load")
    save_file(whole, weights)
    (checkpoint / "policy_preprocessor.json").unlink()
    refused(lambda: load(settings(checkpoint)), "policy_preprocessor.json")
    silent = tiny.act(folder / "silent")
    network = get_policy_class("act")
    plain = network._load_as_safetensor
    network._load_as_safetensor = classmethod(lambda cls, model, *_: model)  # says nothing, loads nothing
    try:
        refused(lambda: load(settings(silent)), "others for")
    finally:
        network._load_as_safetensor = plain
    config = json.loads((silent / "config.json").read_text())
    config["input_features"]["observation.environment_state"] = {"type": "ENV", "shape": [2]}
    (silent / "config.json").write_text(json.dumps(config))
    refused(lambda: load(settings(silent)), "environment_state")
    return {}


def exclusive(folder: Path) -> dict[str, Any]:
    """A policy that plans from its last plan has one robot, and forgets with the episode."""
    checkpoint = tiny.tdmpc(folder / "tdmpc")
    with served(checkpoint, max_sessions=4) as (service, hub):
        policy = service.daemon.policy
        assert not policy.spec.shared and service.daemon.registry.sessions_max == 1
        client, what = robot(service, hub, "left"), seen(policy._network.config, 1)
        with seeded(policy._network, 0):
            first = ask(client, what)
            again = ask(client, what)
            assert client.reset().ok
            equal(ask(client, what), first, "after a reset")
        assert not np.array_equal(first[1], again[1]), "the last plan is not looked at: nothing is shown"
    return {}


def names(folder: Path) -> dict[str, Any]:
    """Names of actions and the rate come from the user, the checkpoint, or the dataset; relative steps get them."""
    checkpoint = tiny.smolvla(folder / "smolvla", relative=True)
    meta = folder / "dataset" / "meta"
    meta.mkdir(parents=True)
    info = {"fps": 25, "features": {"action": {"names": {"arm": tiny.JOINTS[:2], "hand": tiny.JOINTS[2:]}}}}
    (meta / "info.json").write_text(json.dumps(info))
    told = load(settings(checkpoint, options={"dataset": str(folder / "dataset")}))
    assert told.spec.action_names == tuple(tiny.JOINTS) and told.spec.fps == 25.0
    said = load(settings(checkpoint, options={"action_names": ["a", "b", "c"], "fps": 50}))
    assert said.spec.action_names == ("a", "b", "c") and said.spec.fps == 50.0
    refused(lambda: load(settings(checkpoint, options={"action_names": ["a"]})), "3 action names")
    unnamed = load(settings(checkpoint))
    assert unnamed.spec.action_names == () and unnamed.spec.prefix_form == "robot"
    moved = {}
    for joints in (tuple(tiny.JOINTS), ("x", "y", "z")):
        session = unnamed.open_session(SessionInfo("a", "a", action_names=joints))
        session.prepare(Request(moment(seen(unnamed._network.config, 1)), task=TASK))
        chunk = session.finish(torch.zeros(8, tiny.DIM))
        moved[joints] = chunk.robot
    gripper = moved[tuple(tiny.JOINTS)] != moved["x", "y", "z"]
    assert gripper[:, 2].all() and not gripper[:, :2].any(), "the gripper should stay absolute where it is named"
    return {}


def compiled(folder: Path) -> dict[str, Any]:
    """torch.compile changes no answer, and its graphs serve from whichever thread asks."""
    checkpoint = tiny.smolvla(folder / "smolvla")
    answers = []
    for enabled in (False, True):
        model = settings(checkpoint, options={"noise_seed": 3}, compile={"enabled": enabled})
        policy = load(model)
        session = policy.open_session(SessionInfo("a", "a"))
        what = moment(seen(policy._network.config, 1))
        tail = np.ones((3, tiny.DIM), np.float32)
        answers.append(answered(policy, session, Request(what, task=TASK, delay_steps=1, prefix_model=tail)))
        policy.close()
        policy.close()
    off = float(np.abs(answers[0] - answers[1]).max())
    assert off < BATCH_TOLERANCE, off
    return {"off by": off}


def refused(job: Callable[[], object], text: str) -> None:
    try:
        job()
    except PolicyError as err:
        assert text in str(err) and err.remedy, err
    else:
        raise AssertionError(f"not refused: want an error about {text}")


def run_checks(checks: tuple[Callable[[Path], dict[str, Any]], ...], folder: Path, wanted: list[str]) -> None:
    """Run checks by their names, each in a folder of its own; a line of JSON for each."""
    known = {check.__name__: check for check in checks}
    for name in wanted:
        place = folder / name
        place.mkdir()
        print(json.dumps({name: known[name](place)}), flush=True)


CHECKS = (
    act, smolvla, pi0, history, remembered, batches, sizes, noise, guidance, precision, adapters, revisions, damage,
    exclusive, names, compiled,
)  # fmt: skip


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    torch.set_num_threads(1)
    folder, *wanted = sys.argv[1:]
    run_checks(CHECKS, Path(folder), wanted)
