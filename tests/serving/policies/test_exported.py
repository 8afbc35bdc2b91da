"""An exported program behind its policy.yaml: the same numbers as the network, whatever the batch; mistakes named."""

from __future__ import annotations

import hashlib
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file, save_file

from serving.errors import PolicyError
from serving.manifest import ModelSettings
from serving.policies.base import Moment, Request, SessionInfo
from serving.policies.exported import ExportedPolicy, resize
from serving.policies.normalise import Normaliser, statistics_hash
from serving.policies.registry import load_policy
from serving.policies.trial import trial_request

torch = pytest.importorskip("torch")
INFO = SessionInfo("s", "robot")
FRONT = "observation.images.front"


def load(folder: Path, **settings: object) -> ExportedPolicy:
    policy = load_policy(ModelSettings(repo_or_path=str(folder), device="cpu", **settings))
    assert isinstance(policy, ExportedPolicy)
    return policy


def ask(policy: ExportedPolicy, *requests: Request):
    sessions = [policy.open_session(INFO) for _ in requests]
    raws = policy.predict([s.prepare(r) for s, r in zip(sessions, requests, strict=True)])
    return [s.finish(raw) for s, raw in zip(sessions, raws, strict=True)]


def changed(folder: Path, tmp_path: Path, change: Callable[[dict], None]) -> Path:
    """A copy whose policy.yaml is another."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    path = copy / "policy.yaml"
    values = yaml.safe_load(path.read_text())
    change(values)
    path.write_text(yaml.safe_dump(values))
    return copy


def by_hand(folder: Path, request: Request) -> tuple[np.ndarray, np.ndarray]:
    """Model-space and robot-space chunk of the plain tiny policy, with nothing but torch and the files."""
    numbers = load_file(folder / "normalisation.safetensors")
    state = (request.moment.state - numbers["observation.state.mean"]) / numbers["observation.state.std"]
    pixels = request.moment.images[FRONT].astype(np.float32).transpose(2, 0, 1) / 255
    pixels = (pixels - numbers[f"{FRONT}.mean"][:, None, None]) / numbers[f"{FRONT}.std"][:, None, None]
    module = torch.export.load(folder / "policy.pt2").module()
    with torch.no_grad():
        model = module(torch.from_numpy(state)[None], torch.from_numpy(pixels)[None])[0].numpy()
    low, high = numbers["action.min"], numbers["action.max"]
    return model, (model + 1) / 2 * (high - low) + low


def test_it_gives_what_the_network_gives(tiny_folder: Path) -> None:
    policy = load(tiny_folder)
    request = trial_request(policy.spec, np.random.default_rng(0))
    (chunk,) = ask(policy, request)
    model, robot = by_hand(tiny_folder, request)
    assert chunk.model.dtype == chunk.robot.dtype == np.float32 and chunk.robot.shape == (12, 4)
    np.testing.assert_allclose(chunk.model, model, atol=1e-6)
    np.testing.assert_allclose(chunk.robot, robot, atol=1e-5)
    assert np.abs(chunk.model - chunk.robot).max() > 0.1 and np.ptp(chunk.robot) > 0.1


def test_answers_depend_on_every_input(tiny_rtc_folder: Path) -> None:
    policy = load(tiny_rtc_folder)
    rng = np.random.default_rng(0)
    base = trial_request(policy.spec, rng, prefix_rows=4, delay=2)
    other = trial_request(policy.spec, rng, prefix_rows=4, delay=1)
    answer = ask(policy, base)[0].robot
    camera = "observation.images.wrist"
    variants = {
        "state": {"moment": Moment(other.moment.state, base.moment.images)},
        "picture": {"moment": Moment(base.moment.state, {**base.moment.images, camera: other.moment.images[camera]})},
        "history": {"history": other.history},
        "prefix": {"prefix_robot": other.prefix_robot},
        "delay": {"delay_steps": 1},
    }
    for name, change in variants.items():
        varied = ask(policy, Request(**{**vars(base), **change}))[0].robot
        assert not np.array_equal(varied, answer), name


@pytest.mark.parametrize("count", [1, 3, 8])
def test_batches_of_any_size_give_what_single_requests_give(tiny_folder: Path, count: int) -> None:
    policy = load(tiny_folder)
    requests = [trial_request(policy.spec, np.random.default_rng(i)) for i in range(count)]
    together, alone = ask(policy, *requests), [ask(policy, r)[0] for r in requests]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.robot, b.robot, atol=1e-5)
    assert len({chunk.robot.tobytes() for chunk in together}) == count


def test_prefix_and_delay_are_each_request_s_own(tiny_rtc_folder: Path) -> None:
    policy = load(tiny_rtc_folder)
    spec, rng = policy.spec, np.random.default_rng(3)
    assert spec.rtc and spec.mixed_delays and spec.execution_horizon == 4 and spec.prefix_form == "robot"
    requests = [trial_request(spec, rng, prefix_rows=rows, delay=delay) for rows, delay in ((0, 0), (4, 2), (2, 2))]
    together = ask(policy, *requests)
    for request, chunk in zip(requests, together, strict=True):
        np.testing.assert_allclose(chunk.robot, ask(policy, request)[0].robot, atol=1e-5)
    # rows that are executed before the answer comes are those of the prefix, in robot units
    np.testing.assert_allclose(together[1].robot[:2], requests[1].prefix_robot[:2], atol=1e-5)
    np.testing.assert_allclose(together[2].robot[:2], requests[2].prefix_robot[:2], atol=1e-5)
    assert np.abs(together[0].robot[:2] - requests[1].prefix_robot[:2]).max() > 0.1


def test_a_short_prefix_is_not_continued_by_zeros(tiny_rtc_folder: Path) -> None:
    policy = load(tiny_rtc_folder)
    short = trial_request(policy.spec, np.random.default_rng(4), prefix_rows=2)
    padded = Request(**{**vars(short), "prefix_robot": np.concatenate([short.prefix_robot, np.zeros((2, 4))])})
    a, b = ask(policy, short)[0].robot, ask(policy, padded)[0].robot
    assert np.allclose(a[:2], b[:2], atol=1e-5) and np.abs(a[2:4] - b[2:4]).max() > 1e-3


def test_a_long_prefix_is_cut_to_the_rows_of_the_program(tiny_rtc_folder: Path) -> None:
    policy = load(tiny_rtc_folder)
    long = trial_request(policy.spec, np.random.default_rng(5), prefix_rows=9)
    cut = Request(**{**vars(long), "prefix_robot": long.prefix_robot[:4]})
    assert np.array_equal(ask(policy, long)[0].robot, ask(policy, cut)[0].robot)


def test_missing_history_is_the_oldest_moment_again(tiny_rtc_folder: Path) -> None:
    policy = load(tiny_rtc_folder)
    assert (policy.spec.history_frames, policy.spec.history_step) == (2, 3)
    request = trial_request(policy.spec, np.random.default_rng(6))
    none = Request(**{**vars(request), "history": ()})
    same = Request(**{**vars(request), "history": (request.moment,)})
    assert np.array_equal(ask(policy, none)[0].robot, ask(policy, same)[0].robot)
    assert not np.array_equal(ask(policy, request)[0].robot, ask(policy, same)[0].robot)


def test_pictures_of_another_size_are_resized_with_antialiasing(tiny_folder: Path) -> None:
    policy = load(tiny_folder)
    assert [(c.name, c.height, c.width) for c in policy.spec.cameras] == [(FRONT, 48, 64)]
    stripes = np.zeros((480, 640, 3), np.uint8)
    stripes[:, ::2] = 255  # finer than the small picture can show: antialiasing makes it grey
    small = resize(stripes, 48, 64).numpy()
    assert small.shape == (48, 64, 3) and small.dtype == np.uint8
    assert np.abs(small.astype(int) - 128).max() <= 6
    state = np.zeros(5, np.float32)
    (large,) = ask(policy, Request(Moment(state, {FRONT: stripes})))
    (direct,) = ask(policy, Request(Moment(state, {FRONT: small})))
    assert np.array_equal(large.robot, direct.robot)


def test_resizing_is_that_of_pillow_within_a_grey_level() -> None:
    image = pytest.importorskip("PIL.Image")
    picture = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    other = np.asarray(image.fromarray(picture).resize((64, 48), image.Resampling.BILINEAR))
    assert np.abs(resize(picture, 48, 64).numpy().astype(int) - other).max() <= 1


def test_spec_and_hashes(tiny_folder: Path, tmp_path: Path) -> None:
    spec = load(tiny_folder).spec
    assert spec.checkpoint_hash == hashlib.sha256((tiny_folder / "policy.pt2").read_bytes()).hexdigest()
    assert (spec.state_dim, spec.action_dim, spec.chunk_size, spec.batch_max, spec.shared) == (5, 4, 12, 8, True)
    assert spec.policy_type == "tiny" and spec.action_names[0] == "joint_0.pos"
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    numbers = load_file(copy / "normalisation.safetensors")
    numbers["action.max"] = numbers["action.max"] + 1
    save_file(numbers, copy / "normalisation.safetensors")
    other = load(copy).spec
    assert other.checkpoint_hash == spec.checkpoint_hash
    assert other.normalisation_hash != spec.normalisation_hash and len(spec.normalisation_hash) == 64


def test_statistics_may_stand_in_the_yaml_and_hash_alike(tiny_folder: Path, tmp_path: Path) -> None:
    numbers = load_file(tiny_folder / "normalisation.safetensors")

    def inline(values: dict) -> None:
        values["normalisation"].pop("file")
        for key, array in numbers.items():
            feature, _, statistic = key.rpartition(".")
            values["normalisation"]["features"][feature][statistic] = array.tolist()

    policy, original = load(changed(tiny_folder, tmp_path, inline)), load(tiny_folder)
    assert policy.spec.normalisation_hash == original.spec.normalisation_hash
    request = trial_request(policy.spec, np.random.default_rng(1))
    assert np.array_equal(ask(policy, request)[0].robot, ask(original, request)[0].robot)


def test_fixed_batch_sizes_are_filled_up(tmp_path: Path) -> None:
    from serving.policies.tiny import make_tiny

    cameras = {FRONT: (16, 16)}
    folder = make_tiny(tmp_path / "fixed", cameras=cameras, state_dim=3, action_dim=2, chunk_size=5, batch_sizes=[1, 4])
    assert sorted(p.name for p in folder.glob("*.pt2")) == ["policy_b1.pt2", "policy_b4.pt2"]
    policy = load(folder)
    assert policy.spec.batch_max == 4
    requests = [trial_request(policy.spec, np.random.default_rng(i)) for i in range(3)]
    together, alone = ask(policy, *requests), [ask(policy, r)[0] for r in requests]
    assert len(together) == 3
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a.robot, b.robot, atol=1e-5)


def test_a_program_for_any_batch_may_be_called_with_a_few_sizes(tiny_folder: Path, tmp_path: Path) -> None:
    policy = load(changed(tiny_folder, tmp_path, lambda v: v.update(batch_sizes=[2, 8])))
    seen: list[int] = []
    variant = policy._program._variants[0]
    watched = lambda *values: seen.append(len(values[0])) or variant.call(*values)  # noqa: E731
    policy._program._variants[0] = type(variant)(watched, variant.dtypes, variant.batch_min, variant.batch_max)
    requests = [trial_request(policy.spec, np.random.default_rng(i)) for i in range(3)]
    assert len(ask(policy, *requests)) == 3 and len(ask(policy, requests[0])) == 1
    assert seen == [8, 2]


def test_the_same_seed_gives_the_same_policy(tiny_folder: Path, tmp_path: Path) -> None:
    from serving.policies.tiny import make_tiny

    sizes = {"state_dim": 5, "action_dim": 4, "chunk_size": 12, "batch_max": 8}
    again = load(make_tiny(tmp_path / "same", cameras={FRONT: (48, 64)}, **sizes))
    other = load(make_tiny(tmp_path / "other", cameras={FRONT: (48, 64)}, **sizes, seed=5))
    request = trial_request(again.spec, np.random.default_rng(2))
    answers = [ask(policy, request)[0].robot for policy in (load(tiny_folder), again, other)]
    assert np.array_equal(answers[0], answers[1]) and not np.array_equal(answers[0], answers[2])


def test_a_policy_without_state_or_without_cameras(tmp_path: Path) -> None:
    from serving.policies.tiny import make_tiny

    blind = load(make_tiny(tmp_path / "blind", cameras={}, state_dim=3, action_dim=2, chunk_size=5))
    assert not blind.spec.cameras and ask(blind, trial_request(blind.spec))[0].robot.shape == (5, 2)
    still = load(make_tiny(tmp_path / "still", cameras={"eye": (16, 16)}, state_dim=0, action_dim=2, chunk_size=5))
    assert still.spec.state_dim == 0 and ask(still, trial_request(still.spec))[0].robot.shape == (5, 2)


def test_export_into_a_folder_with_something_in_it_is_refused(tiny_folder: Path) -> None:
    from serving.policies.tiny import make_tiny

    with pytest.raises(PolicyError, match="empty folder"):
        make_tiny(tiny_folder)


def _set(*path: str, value: object) -> Callable[[dict], None]:
    def change(values: dict) -> None:
        for key in path[:-1]:
            values = values[key]
        values[path[-1]] = value

    return change


def _drop(*path: str) -> Callable[[dict], None]:
    def change(values: dict) -> None:
        for key in path[:-1]:
            values = values[key]
        del values[path[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_set("chunksize", value=3), "did you mean chunk_size"),
        (_set("chunk_size", value=0), "chunk_size"),
        (_set("chunk_size", value=13), r"want a chunk of shape \[batch, 13, 4\].*12"),
        (_set("fps", value=0), "fps"),
        (_set("format", value=2), "format"),
        (_set("state", "dim", value=6), "6 finite numbers for mean of observation.state"),
        (_set("action", "dim", value=3), "3 different names, got 4"),
        (_set("batch_max", value=64), "batches of 64"),
        (_set("batch_sizes", value=[4, 9]), "batches of 9"),
        (_set("program", value="other.pt2"), "no such file"),
        (_set("program", value="../policy.pt2"), "program"),
        (_set("program", value={2: "policy.pt2", 16: "policy.pt2"}), "batches of 16"),
        (_set("inputs", value=["observation.state", "eye"]), "eye"),
        (_set("inputs", value=["observation.state"]), "2 inputs"),
        (_set("inputs", value=[FRONT, "observation.state"]), "of shape"),
        (_set("prefix", value={"form": "model", "rows": 13}), "at most chunk_size"),
        (_set("prefix", value={"form": "model", "rows": 3}), "2 inputs"),
        (_set("history", value={"frames": 2}), r"\[batch, 2, 5\]"),
        (_set("normalisation", "features", "gripper", value={"mode": "min_max"}), "gripper"),
        (_set("normalisation", "features", "action", value={"mode": "quantiles"}), "q01 of action"),
        (_set("normalisation", "features", "action", value={"mode": "mean_std", "mean": [0], "std": [1]}), "4 finite"),
        (_set("normalisation", "file", value="gone.safetensors"), "gone.safetensors"),
        (_set("cameras", value=[{"name": "a", "height": 8, "width": 8}] * 2), "each camera once"),
        (_drop("action"), "action"),
        (_drop("program"), "program"),
    ],
)
def test_a_wrong_policy_yaml_is_named(tiny_folder: Path, tmp_path: Path, change: Callable, said: str) -> None:
    with pytest.raises(PolicyError, match=f"(?s){said}") as caught:
        load(changed(tiny_folder, tmp_path, change))
    assert caught.value.wanted and caught.value.got and caught.value.remedy


@pytest.mark.parametrize("content", [b"", b"- 1\n", b"{", b"\xff\xfe\x00", b"a: [1", b"5"])
def test_a_policy_yaml_that_is_none(tiny_folder: Path, tmp_path: Path, content: bytes) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    (copy / "policy.yaml").write_bytes(content)
    with pytest.raises(PolicyError, match=r"policy\.yaml"):
        load(copy)


@pytest.mark.parametrize("content", [b"", b"no program", b"PK\x03\x04 torn"])
def test_a_program_that_is_none(tiny_folder: Path, tmp_path: Path, content: bytes) -> None:
    copy = Path(shutil.copytree(tiny_folder, tmp_path / "copy"))
    (copy / "policy.pt2").write_bytes(content)
    with pytest.raises(PolicyError, match=r"torch\.export program"):
        load(copy)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dtype": "bfloat16"}, "model.dtype"),
        ({"adapter": {"repo_or_path": "me/lora"}}, "adapter"),
        ({"options": {"speed": 3}}, "unknown key speed"),
    ],
)
def test_settings_that_an_exported_policy_cannot_follow(tiny_folder: Path, settings: dict, said: str) -> None:
    with pytest.raises(PolicyError, match=said):
        load(tiny_folder, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_named(tiny_folder: Path) -> None:
    with pytest.raises(PolicyError, match="want device cuda"):
        load_policy(ModelSettings(repo_or_path=str(tiny_folder), device="cuda"))


def test_a_compiled_program_runs_on_one_thread_whoever_calls(tiny_folder: Path, monkeypatch) -> None:
    threads: set[str] = set()
    asked: list[dict] = []

    def compile_(call: Callable, **settings: object) -> Callable:
        asked.append(settings)
        return lambda *values: threads.add(threading.current_thread().name) or call(*values)

    monkeypatch.setattr(torch, "compile", compile_)
    policy = load(tiny_folder, compile={"enabled": True, "mode": "reduce-overhead"})
    plain, request = load(tiny_folder), trial_request(policy.spec, np.random.default_rng(0))
    answers = [ask(policy, request)[0]]
    other = threading.Thread(target=lambda: answers.append(ask(policy, request)[0]))
    other.start()
    other.join()
    assert asked == [{"mode": "reduce-overhead", "dynamic": None}]
    assert len(threads) == 1 and threading.current_thread().name not in threads
    assert all(np.array_equal(a.robot, ask(plain, request)[0].robot) for a in answers) and len(answers) == 2
    policy.close()
    policy.close()
    assert not any(thread.name in threads for thread in threading.enumerate())


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
def test_torch_compile_changes_nothing_but_the_time(tiny_folder: Path) -> None:
    compiled, plain = load(tiny_folder, compile={"enabled": True}), load(tiny_folder)
    request = trial_request(plain.spec, np.random.default_rng(0))
    np.testing.assert_allclose(ask(compiled, request)[0].robot, ask(plain, request)[0].robot, atol=1e-4)
    compiled.close()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_the_gpu_gives_what_the_cpu_gives(tiny_rtc_folder: Path) -> None:
    policies = [load_policy(ModelSettings(repo_or_path=str(tiny_rtc_folder), device=d)) for d in ("cpu", "cuda")]
    requests = [trial_request(policies[0].spec, np.random.default_rng(i), prefix_rows=i) for i in range(4)]
    for a, b in zip(*(ask(policy, *requests) for policy in policies), strict=True):
        np.testing.assert_allclose(a.robot, b.robot, atol=1e-3)


@pytest.mark.parametrize("mode", ["mean_std", "min_max", "quantiles"])
def test_normalising_there_and_back(mode: str) -> None:
    rng = np.random.default_rng(0)
    low = rng.normal(size=6).astype(np.float32)
    high = rng.uniform(0.5, 2, 6).astype(np.float32) + (0 if mode == "mean_std" else low)
    normaliser = Normaliser.of(mode, low, high)
    values = rng.normal(size=(9, 6)).astype(np.float32)
    inside = normaliser.forward(values)
    assert inside.dtype == np.float32
    np.testing.assert_allclose(normaliser.inverse(inside), values, atol=1e-5)
    if mode != "mean_std":
        np.testing.assert_allclose(normaliser.forward(np.stack([low, high])), [[-1] * 6, [1] * 6], atol=1e-5)


@pytest.mark.parametrize("mode", ["mean_std", "min_max"])
def test_a_value_that_never_varied_stays_finite(mode: str) -> None:
    low = np.float32([3.0])
    normaliser = Normaliser.of(mode, low, np.float32([0.0 if mode == "mean_std" else 3.0]))
    assert np.isfinite(normaliser.forward(np.float32([[3.0]]))).all()
    np.testing.assert_allclose(normaliser.inverse(np.float32([[0.7]])), [[3.0]], atol=1e-6)


def test_the_hash_of_statistics_knows_features_modes_and_numbers() -> None:
    one = Normaliser.of("mean_std", np.float32([1]), np.float32([2]))
    assert statistics_hash({"a": one}) == statistics_hash({"b": Normaliser(), "a": one})
    variants = [{"b": one}, {"a": Normaliser.of("min_max", one.low, one.high)}, {}]
    variants += [{"a": Normaliser.of("mean_std", np.float32([1]), np.float32([2.5]))}]
    assert len({statistics_hash(v) for v in [{"a": one}, *variants]}) == 5 and statistics_hash({}) == ""


def test_a_small_network_computes_with_one_thread_unless_told_otherwise(tiny_folder: Path, monkeypatch) -> None:
    said: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", said.append)
    load(tiny_folder)
    load(tiny_folder, options={"threads": 3})
    monkeypatch.setattr("serving.policies.exported.SMALL_BYTES", 0)
    load(tiny_folder)
    assert said == [1, 3]
