"""What can be said of LeRobot checkpoints without lerobot: families, files, tails, and how chunks are continued."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from serving.errors import PolicyError, PredictError
from serving.manifest import ModelSettings
from serving.policies import lerobot_families as families
from serving.policies.base import Moment, Request
from serving.policies.lerobot import load
from serving.policies.lerobot_checkpoint import find, step_names
from serving.policies.lerobot_families import chunk_rows, classify, precision
from serving.policies.lerobot_guidance import Guidance, gain, prefix_weights
from serving.policies.lerobot_prefix import fitted, tail
from serving.policies.torch_threads import torch_threads

MOMENT = Moment(None, {})


def rows(count: int, dim: int = 2, value: float = 1.0) -> np.ndarray:
    return np.full((count, dim), value, np.float32)


# --- families --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "shared", "rtc", "history"),
    [
        ({"type": "act"}, True, False, False),
        ({"type": "pi0"}, True, True, False),
        ({"type": "pi05"}, True, True, False),
        ({"type": "smolvla", "n_obs_steps": 1}, True, True, False),
        ({"type": "smolvla", "n_obs_steps": 2}, False, True, False),
        ({"type": "diffusion"}, True, False, True),
        ({"type": "vqbet"}, True, False, True),
        ({"type": "multi_task_dit"}, True, False, True),
        ({"type": "tdmpc"}, False, False, False),
        ({"type": "lingbot_va"}, False, False, False),
        ({"type": "xvla"}, False, False, False),
        ({"type": "somebodys_own"}, False, False, False),
    ],
)
def test_families_are_served_as_declared(config: dict, shared: bool, rtc: bool, history: bool) -> None:
    family = classify(config)
    assert (family.shared, family.rtc, family.history) == (shared, rtc, history)
    assert bool(family.note) is not shared  # whoever is alone is told why


def test_only_verified_families_are_shared_or_continue_chunks() -> None:
    for name, family in families.FAMILIES.items():
        assert family.verified or not (family.shared or family.rtc), name
    assert not set(families.FAMILIES) & set(families.REFUSED)


@pytest.mark.parametrize("kind", families.REFUSED)
def test_what_gives_no_chunks_is_refused_with_its_reason(kind: str) -> None:
    with pytest.raises(PolicyError) as refused:
        classify({"type": kind})
    assert kind in refused.value.got and families.REFUSED[kind] in refused.value.got and refused.value.remedy


@pytest.mark.parametrize("config", [{}, {"type": ""}, {"type": 3}])
def test_a_config_without_a_type_is_refused(config: dict) -> None:
    with pytest.raises(PolicyError, match="its type"):
        classify(config)


@pytest.mark.parametrize(
    ("config", "count"),
    [
        ({"type": "act", "chunk_size": 100, "n_action_steps": 50}, 100),
        ({"type": "diffusion", "horizon": 16, "n_action_steps": 8}, 8),
        ({"type": "vqbet", "action_chunk_size": 5}, 5),
        ({"type": "tdmpc", "horizon": 5, "n_action_steps": 1}, 5),
        ({"type": "tdmpc", "horizon": 5, "use_mpc": False}, 1),
        ({"type": "xvla", "chunk_size": 0, "n_action_steps": 30}, 30),
    ],
)
def test_rows_of_a_chunk(config: dict, count: int) -> None:
    assert chunk_rows(classify(config), config) == count


def test_a_checkpoint_that_does_not_say_its_rows_is_refused() -> None:
    with pytest.raises(PolicyError, match="chunk_size"):
        chunk_rows(classify({"type": "act"}), {"type": "act"})


@pytest.mark.parametrize(
    ("kind", "dtype", "wanted"),
    [
        ("act", None, families.Precision()),
        ("act", "float32", families.Precision(single=True)),
        ("act", "half", families.Precision(autocast="float16")),
        ("smolvla", "bfloat16", families.Precision(autocast="bfloat16")),
        ("pi0", "bfloat16", families.Precision(own="bfloat16")),
        ("pi05", "float", families.Precision(own="float32")),
        ("xvla", None, families.Precision()),
    ],
)
def test_precision(kind: str, dtype: str | None, wanted: families.Precision) -> None:
    assert precision(kind, classify({"type": kind}), dtype) == wanted


@pytest.mark.parametrize(
    ("kind", "dtype"), [("act", "float64"), ("pi0", "float16"), ("pi0", "double"), ("xvla", "bfloat16")]
)
def test_a_precision_that_a_family_cannot_is_refused(kind: str, dtype: str) -> None:
    with pytest.raises(PolicyError) as refused:
        precision(kind, classify({"type": kind}), dtype)
    assert refused.value.got == dtype and refused.value.remedy


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"type": "act"}))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


def test_a_folder_is_known_by_its_content(checkpoint: Path) -> None:
    first = find(str(checkpoint), "main")
    assert len(first.revision) == 40 and find(str(checkpoint), "other") == first
    (checkpoint / "notes.txt").write_text("nothing that is loaded")
    assert find(str(checkpoint), "main").revision == first.revision
    (checkpoint / "model.safetensors").write_bytes(b"others")
    second = find(str(checkpoint), "main")
    assert second.revision != first.revision and second.weights_hash != first.weights_hash
    (checkpoint / "policy_preprocessor.json").write_text("{}")
    third = find(str(checkpoint), "main")
    assert third.revision != second.revision and third.weights_hash == second.weights_hash


def test_a_folder_without_weights_says_what_it_has(checkpoint: Path) -> None:
    (checkpoint / "model.safetensors").unlink()
    with pytest.raises(PolicyError) as refused:
        find(str(checkpoint), "main")
    assert "config.json" in refused.value.got


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_is_refused(checkpoint: Path, text: str) -> None:
    (checkpoint / "config.json").write_text(text)
    with pytest.raises(PolicyError, match=re.escape("config.json")):
        find(str(checkpoint), "main").config()


def test_steps_of_a_processor(checkpoint: Path) -> None:
    with pytest.raises(PolicyError, match=re.escape("policy_preprocessor.json")) as refused:
        step_names(checkpoint, "policy_preprocessor.json")
    assert "migrate" in refused.value.remedy
    steps = {"steps": [{"registry_name": "device_processor"}, {"class": "somebody.Step"}]}
    (checkpoint / "policy_preprocessor.json").write_text(json.dumps(steps))
    assert step_names(checkpoint, "policy_preprocessor.json") == ["device_processor", "somebody.Step"]


def test_a_refused_family_needs_no_lerobot(checkpoint: Path) -> None:
    (checkpoint / "config.json").write_text(json.dumps({"type": "sarm"}))
    with pytest.raises(PolicyError, match="reward model"):
        load(ModelSettings(repo_or_path=str(checkpoint), device="cpu"))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="lerobot may be installed")
def test_without_lerobot_it_is_said_what_to_install(checkpoint: Path) -> None:
    with pytest.raises(PolicyError, match="want lerobot") as refused:
        load(ModelSettings(repo_or_path=str(checkpoint), device="cpu"))
    assert "lerobot" in refused.value.remedy and "3.12" in refused.value.remedy


def test_unknown_options_are_named(checkpoint: Path) -> None:
    with pytest.raises(PolicyError, match="noise_seed"):
        load(ModelSettings(repo_or_path=str(checkpoint), device="cpu", options={"noise_sed": 3}))


def test_the_table_loads_neither_torch_nor_lerobot() -> None:
    names = "lerobot, lerobot_families, lerobot_checkpoint, lerobot_prefix, lerobot_spec"
    loaded = (
        f"import sys; from serving.policies import {names}; print(sorted({{'torch', 'lerobot'}} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- tails -----------------------------------------------------------------------------------------------------------


def test_the_form_of_the_tail() -> None:
    model, robot = rows(3, value=1), rows(3, value=2)
    both = Request(MOMENT, prefix_model=model, prefix_robot=robot)
    assert tail(both, relative=False) == (model, False)
    assert tail(both, relative=True) == (robot, True)
    assert tail(Request(MOMENT, prefix_robot=robot), relative=False) == (None, False)
    assert tail(Request(MOMENT, prefix_model=model), relative=True) == (model, False)


@pytest.mark.parametrize("relative", [False, True])
def test_an_exhausted_queue_is_no_tail(relative: bool) -> None:
    empty = np.zeros((0, 2), np.float32)
    assert tail(Request(MOMENT), relative) == (None, False)
    assert tail(Request(MOMENT, prefix_model=empty, prefix_robot=empty), relative) == (None, False)


def test_tails_are_padded_and_cut_to_one_shape_and_counted() -> None:
    filled, counts = fitted([rows(2), None, rows(4), rows(9)], horizon=4, action_dim=2)
    assert filled.shape == (4, 4, 2) and filled.dtype == np.float32 and counts == [2, 0, 4, 4]
    assert filled[0, :2].all() and not filled[0, 2:].any() and not filled[1].any() and filled[2:].all()


@pytest.mark.parametrize(
    "prefix", [np.ones(2, np.float32), np.ones((2, 3), np.float32), np.ones((1, 2, 2), np.float32)]
)
def test_a_tail_of_another_shape_is_refused(prefix: np.ndarray) -> None:
    with pytest.raises(PredictError, match="prefix"):
        fitted([prefix], horizon=4, action_dim=2)


# --- guidance --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "wanted"),
    [
        ("zeros", [1, 1, 0, 0, 0, 0, 0, 0]),
        ("ones", [1, 1, 1, 1, 1, 0, 0, 0]),
        ("linear", [1, 1, 0.75, 0.5, 0.25, 0, 0, 0]),
        ("exp", [1, 1, *(w * np.expm1(w) / (np.e - 1) for w in (0.75, 0.5, 0.25)), 0, 0, 0]),
    ],
)
def test_weights_fall_by_schedule(schedule: str, wanted: list[float]) -> None:
    assert prefix_weights(2, 5, 8, schedule) == pytest.approx(wanted)


@pytest.mark.parametrize(
    ("delay", "held", "wanted"),
    [
        (0, 0, [0, 0, 0, 0]),  # no tail
        (3, 0, [0, 0, 0, 0]),
        (9, 2, [1, 1, 0, 0]),  # longer than the tail
        (-1, 1, [0.5, 0, 0, 0]),
        (0, 9, [0.8, 0.6, 0.4, 0.2]),  # longer than the chunk
        (4, 4, [1, 1, 1, 1]),
    ],
)
def test_weights_at_the_edges(delay: int, held: int, wanted: list[float]) -> None:
    assert prefix_weights(delay, held, 4, "linear") == pytest.approx(wanted)


def test_the_gain_is_bounded_where_its_formula_is_not() -> None:
    assert gain(1.0, 10.0) == 10  # 0 / 0 at pure noise
    assert gain(0.0, 10.0) == 10
    assert gain(0.5, 10.0) == pytest.approx(2.0)  # (1 - t) = t = 1/2: 1 * (1/4 + 1/4) / (1/4)
    assert gain(0.1, 2.0) == 2


def denoiser(x: torch.Tensor) -> torch.Tensor:
    """A velocity that depends on where it is asked."""
    return x * 0.5 + 1


def test_the_correction_is_the_error_or_its_product_with_the_jacobian() -> None:
    x, prefix = torch.ones(1, 4, 3), torch.full((1, 2, 3), 2.0)
    time, velocity = 0.5, denoiser(torch.ones(1, 4, 3))
    error = torch.zeros(1, 4, 3)
    error[:, :2] = 2.0 - (1 - time * 1.5)
    weights = prefix_weights(1, 2, 4, "linear")[:, None]
    jacobian = 1 - time * 0.5  # of x - time * denoiser(x)
    for form, scale in (("error", 1.0), ("vjp", jacobian)):
        got = Guidance("linear", 10.0, form).velocity(x, time, prefix, [1], [2], denoiser)
        assert torch.allclose(got, velocity - 2.0 * error * weights * scale), form
        assert not got.requires_grad


def test_each_sample_of_a_batch_is_guided_by_its_own_tail() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(3, 6, 2, generator=draw)
    prefix = torch.randn(3, 4, 2, generator=draw)
    delays, held = [0, 2, 1], [4, 0, 2]
    guidance = Guidance("linear", 5.0)
    together = guidance.velocity(x, 0.7, prefix, delays, held, denoiser)
    for i in range(3):
        alone = guidance.velocity(x[i : i + 1], 0.7, prefix[i : i + 1], delays[i : i + 1], held[i : i + 1], denoiser)
        assert torch.equal(together[i : i + 1], alone)
    assert torch.equal(together[1], denoiser(x[1]))  # no tail: as if there were no guidance
    assert torch.equal(together[2, 2:], denoiser(x[2, 2:]))  # behind the tail, too: zeros are no actions
    prefix[2, 2:] = 99
    assert torch.equal(guidance.velocity(x, 0.7, prefix, delays, held, denoiser), together)


# --- threads ---------------------------------------------------------------------------------------------------------


def test_the_number_of_threads_is_that_of_the_caller_alone() -> None:
    inside, leave = threading.Event(), threading.Event()
    seen: list[int] = []

    def pool() -> None:
        with torch_threads(1):
            seen.append(torch.get_num_threads())
            inside.set()
            leave.wait(10)

    before = torch.get_num_threads()
    thread = threading.Thread(target=pool)
    with torch_threads(3):
        thread.start()
        assert inside.wait(10) and torch.get_num_threads() == 3
        leave.set()
        thread.join(10)
    assert seen == [1] and torch.get_num_threads() == before
