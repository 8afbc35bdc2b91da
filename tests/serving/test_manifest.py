"""Manifests: what is wrong is named with its place and a remedy; flags win; services share what they have in common."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from serving import manifest_schema
from serving.errors import ManifestError
from serving.manifest import LimitSettings, Manifest
from serving.overrides import load, load_one, network, split_words
from serving.problems import ManifestProblems
from serving.wire.limits import Limits

REPO = Path(__file__).resolve().parents[2]
GOOD = "model: {repo_or_path: me/policy}\nzenoh: {connect_endpoints: [tcp/router:7447]}\n"


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def problems(folder: Path, text: str, *flags: str):
    with pytest.raises(ManifestProblems) as caught:
        load([write(folder, text)], flags)
    return caught.value.problems


def test_a_small_manifest_is_enough(tmp_path):
    plan = load_one([write(tmp_path, GOOD)])
    assert plan.name == "m" and plan.manifest.keys().prefix == "@lerobot/me-policy/main/default"
    assert (plan.manifest.max_sessions, plan.manifest.health_host, plan.manifest.zenoh.mode) == (
        5,
        "127.0.0.1",
        "client",
    )


# one wrong line over a good manifest: the place, what is wanted, what is got, what to do
WRONG = {
    "model": ("model: {device: cpu}", "model.repo_or_path", "a model to serve", "none", "set model.repo_or_path"),
    "no model": ("model:", "model.repo_or_path", "a model to serve", "none", "set model.repo_or_path"),
    "mode": ("serving_mode: shred", "serving_mode", "auto, shared or exclusive", "'shred'", "did you mean shared?"),
    "sessions": ("max_sessions: 0", "max_sessions", "at least 1", "0", "the default, 5"),
    "zenoh mode": ("zenoh: {mode: clint}", "zenoh.mode", "client or peer", "'clint'", "did you mean client?"),
    "no router": ("zenoh: {mode: client}", "zenoh.connect_endpoints", "a router", "no endpoint", "tcp/ROUTER:7447"),
    "no listener": ("zenoh: {mode: peer}", "zenoh.listen_endpoints", "endpoint in peer mode", "none", "0.0.0.0"),
    "partial tls": (
        "zenoh: {connect_endpoints: [tcp/a:1], tls_connect_certificate: c.pem}",
        "zenoh.tls_root_ca_certificate", "together", "only tls_connect_certificate", "all three or none",
    ),
    "partial listen tls": (
        "zenoh: {mode: peer, listen_endpoints: [tcp/a:1], tls_listen_certificate: c.pem}",
        "zenoh.tls_listen_private_key", "together", "only tls_listen_certificate", "both or none",
    ),
    "tls endpoint": (
        "zenoh: {connect_endpoints: [tls/a:1]}", "zenoh.tls_root_ca_certificate", "together", "none", "or use tcp/",
    ),
    "guidance": ("rtc: {max_guidance_weight: 0}", "rtc.max_guidance_weight", "more than 0", "0", "the default, 10.0"),
    "debug_maxlen": ("rtc: {debug_maxlen: 0}", "rtc.debug_maxlen", "more than 0", "0", "the default, 100"),
    "rtc mode": ("rtc: {mode: traned}", "rtc.mode", "guided or trained", "'traned'", "did you mean trained?"),
    "schedule": (
        "rtc: {prefix_attention_schedule: cubic}", "rtc.prefix_attention_schedule", "zeros, ones, linear or exp",
        "'cubic'", "use one of",
    ),
    "horizon": ("rtc: {execution_horizon: 0}", "rtc.execution_horizon", "at least 1", "0", "the default, 10"),
    "dtype": (
        "model: {repo_or_path: a, dtype: bf16}", "model.dtype", "torch floating point type", "'bf16'",
        "did you mean bfloat16?",
    ),
    "device": (
        "model: {repo_or_path: a, device: cuda1}", "model.device", "a torch device", "'cuda1'", "did you mean cuda",
    ),
    "family": (
        "model: {repo_or_path: a, family: lerobt}", "model.family", "module:function", "'lerobt'",
        "did you mean lerobot",
    ),
    "factory": (
        "model: {repo_or_path: a, family: factory}", "model.repo_or_path", "module:function", "'a'",
        "my_robot.policies:load",
    ),
    "compile mode": (
        "model: {repo_or_path: a, compile: {mode: fast}}", "model.compile.mode", "max-autotune", "'fast'", "use one of",
    ),
    "port": ("health_port: 70000", "health_port", "at most 65535", "70000", "the default, 9100"),
    "negative port": ("health_port: -1", "health_port", "at least 0", "-1", "the default, 9100"),
    "warm-up": ("warmup_inferences: -1", "warmup_inferences", "at least 0", "-1", "the default, 2"),
    "fps": ("trained_fps: 0", "trained_fps", "more than 0", "0", "the default, 30.0"),
    "endless fps": ("trained_fps: .inf", "trained_fps", "finite", "inf", "the default, 30.0"),
    "idle": ("session_idle_timeout_s: 0", "session_idle_timeout_s", "more than 0", "0", "the default, 300.0"),
    "text for a number": ("max_sessions: many", "max_sessions", "a whole number", "'many'", "the default, 5"),
    "fraction": ("max_sessions: 1.5", "max_sessions", "a whole number", "1.5", "the default, 5"),
    "number for text": ("default_task: 7", "default_task", "text", "7", "put it in quotes"),
    "no switch": ("pin_task: perhaps", "pin_task", "true or false", "'perhaps'", "the default, false"),
    "scalar for a section": ("rtc: true", "rtc", "a mapping of settings", "True", "docs/manifest.md"),
    "pin": ("pin_task: true", "default_task", "a task to pin", "none", "pin_task: false"),
    "task": ('default_task: "!!!"', "default_task", "letters or digits", "'!!!'", "service_name"),
    "reserved": ("service_name: status", "service_name", "a free name", "'status'", "choose another"),
    "long task": (f"default_task: {'x' * 600}", "default_task", "at most 512 characters", "600", "shorten"),
    "server_id": ("server_id: a/b", "server_id", "letters, digits", "'a/b'", "write a-b"),
    "batch": ("batching: {batch_max: 0}", "batching.batch_max", "at least 1", "0", "the default, null"),
    "endpoint": (
        "zenoh: {connect_endpoints: [router]}", "zenoh.connect_endpoints[0]", "PROTOCOL/ADDRESS", "'router'",
        "tcp/192.168.0.10:7447",
    ),
    "endpoint port": (
        "zenoh: {connect_endpoints: [tcp/a:1, tcp/b:99999]}", "zenoh.connect_endpoints[1]", "a port from 1 to 65535",
        "tcp/b:99999", "tcp/192.168.0.10:7447",
    ),
    "extra": (
        "zenoh: {connect_endpoints: [tcp/a:1], extra_config_json5: '['}", "zenoh.extra_config_json5", "JSON5", "",
        "write it like",
    ),
    "misspelt": ("max_session: 3", "max_session", "a known setting", "max_session", "did you mean max_sessions"),
    "misspelt below": (
        "model: {repo_or_path: a, devise: cpu}", "model.devise", "a known setting", "model.devise", "model.device",
    ),
    "another section": (
        "listen_endpoints: [tcp/a:1]", "listen_endpoints", "a known setting", "", "zenoh.listen_endpoints",
    ),
    "limits": ("limits: {body_bytes_max: 1}", "limits.body_bytes_max", "at least 1024", "1", "the default, 16777216"),
    "messages that the network drops": (
        "limits: {body_bytes_max: 33554432}", "zenoh.rx_message_bytes_max", "at least limits.body_bytes_max",
        "16777216", "raise it",
    ),
    "capture": ("debug: {capture_max: 0}", "debug.capture_max", "at least 1", "0", "the default, 256"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_each_wrong_manifest_has_its_own_message(tmp_path, case):
    line, place, wanted, got, remedy = WRONG[case]
    tree = {**yaml.safe_load(GOOD), **yaml.safe_load(line)}
    text = "# a comment\n" + yaml.safe_dump(tree, sort_keys=False)
    (found,) = problems(tmp_path, text)
    assert found.place == place
    assert wanted in found.wanted and got in found.got and remedy in found.remedy, found
    key = place.split(".")[0].split("[")[0]
    lines = [number for number, row in enumerate(text.splitlines(), 1) if row.startswith(key)]
    if lines:  # of the key itself, or of the nearest there is around it
        assert "m.yaml, line" in found.where and int(found.where.split("line ")[1].rstrip(")")) >= lines[0]


def test_wrong_manifests_are_told_apart():
    assert len(WRONG) >= 25
    assert len({(place, wanted, got) for _, place, wanted, got, _ in WRONG.values()}) >= len(WRONG) - 1


def test_all_that_is_wrong_is_told_in_the_order_of_the_specification(tmp_path):
    text = """
rtc: {mode: no, max_guidance_weight: -1}
zenoh: {mode: no}
max_sessions: 0
serving_mode: no
health_port: -1
model: {}
"""
    places = [problem.place for problem in problems(tmp_path, text)]
    assert places == [
        "model.repo_or_path", "serving_mode", "max_sessions", "zenoh.mode", "rtc.max_guidance_weight", "rtc.mode",
        "health_port",
    ]  # fmt: skip


def test_a_misspelt_setting_comes_before_the_missing_one_that_it_causes(tmp_path):
    first, second = problems(tmp_path, "model: {repo_or_path: a}\nzenoh: {connect_endpoint: [tcp/a:1], mode: clint}")
    assert first.place == "zenoh.connect_endpoint" and second.place == "zenoh.mode"


def test_the_message_says_place_got_and_remedy(tmp_path):
    with pytest.raises(ManifestError) as caught:
        load([write(tmp_path, GOOD + "max_sessions: 0\nserving_mode: all\n")])
    text = str(caught.value)
    assert "want at least 1, at max_sessions (m.yaml, line 3)\n  got: 0\n  do: leave it out for the default, 5" in text
    assert "serving_mode (m.yaml, line 4)" in text
    assert isinstance(caught.value, ValueError)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a mapping"),
        ("- a", "a mapping"),
        ("model: [", "want YAML"),
        ("model: {}\nmodel: {}", "each key once"),
        ("services: []", "a list of mappings"),
        ("services: {a: 1}", "a list of mappings"),
        ("a: &a [*a]", "nested"),
        ("\x00", "want YAML"),
    ],
)
def test_files_that_are_no_manifest(tmp_path, text, said):
    with pytest.raises(ManifestError, match=said):
        load([write(tmp_path, text)])


def test_a_missing_file_names_itself(tmp_path):
    with pytest.raises(ManifestError, match="readable manifest") as caught:
        load([tmp_path / "none.yaml"])
    assert "none.yaml" in caught.value.got


# --- flags ---------------------------------------------------------------------------------------


def test_flags_win_over_the_file(tmp_path):
    flags = [
        "--model.device=cpu", "--zenoh.connect_endpoints=tcp/a:1,tcp/b:2", "--rtc.enabled=false", "--model.dtype=null",
        "--model.options.stride=3", "--max_sessions=2", "--default_task=007",
    ]  # fmt: skip
    text = GOOD + "max_sessions: 9\nrtc: {execution_horizon: 4}\n"
    manifest = load_one([write(tmp_path, text)], flags).manifest
    assert manifest.model.device == "cpu" and manifest.model.repo_or_path == "me/policy"
    assert manifest.zenoh.connect_endpoints == ["tcp/a:1", "tcp/b:2"]
    assert manifest.rtc.enabled is False and manifest.rtc.execution_horizon == 4
    assert manifest.model.options == {"stride": 3} and manifest.max_sessions == 2 and manifest.default_task == "007"


def test_flags_alone_are_enough():
    flags = ["--model.repo_or_path=a.b:c", "--zenoh.mode=peer", "--zenoh.listen_endpoints=tcp/127.0.0.1:0"]
    assert load_one([], flags).manifest.zenoh.listen_endpoints == ["tcp/127.0.0.1:0"]


def test_a_wrong_flag_is_the_place_of_its_problem(tmp_path):
    (found,) = problems(tmp_path, GOOD, "--max_sessions=0")
    assert found.where == "--max_sessions"
    with pytest.raises(ManifestError) as caught:
        load([write(tmp_path, GOOD)], ["--model.devise=cpu"])
    assert caught.value.remedy == "did you mean --model.device?"


def test_files_and_flags_are_told_apart():
    words = ["m.yaml", "--model.device", "cpu", "--pin_task", "n.yaml", "--max_sessions=3"]
    assert split_words(words) == (
        [Path("m.yaml"), Path("n.yaml")],
        ["--model.device=cpu", "--pin_task", "--max_sessions=3"],
    )


def test_every_field_is_a_flag():
    from configuration.flags import leaves

    for name, field in leaves(Manifest):
        assert field.description, name


def test_who_only_asks_needs_no_manifest():
    assert network([], ["tcp/a:1"]).connect_endpoints == ["tcp/a:1"]
    assert network(["--zenoh.connect_endpoints=tcp/b:1", "--zenoh.lease_ms=5000"], []).lease_ms == 5000
    with pytest.raises(ManifestError, match="where to ask"):
        network([], [])
    with pytest.raises(ManifestError, match="at --zenoh\\.connect_endpoints"):
        network([], ["nowhere"])


@given(st.lists(st.text(max_size=20), max_size=4))
def test_any_words_load_or_give_a_manifest_error(words):
    try:
        paths, flags = split_words([w for w in words if w.startswith("-")])
        load([], flags)
    except ManifestError as error:
        assert error.wanted
    else:
        assert not paths


# --- several services ----------------------------------------------------------------------------

SERVICES = """
zenoh: {connect_endpoints: [tcp/router:7447]}
model: {device: cpu}
services:
  - name: towels
    model: {repo_or_path: me/towels}
    max_sessions: 2
  - name: cups
    gpu: 3
    model: {repo_or_path: me/cups, device: cuda}
"""


def test_services_share_what_stands_beside_them(tmp_path):
    towels, cups = load([write(tmp_path, SERVICES)])
    assert (towels.name, towels.gpu, towels.manifest.max_sessions) == ("towels", None, 2)
    assert (cups.name, cups.gpu, cups.manifest.max_sessions) == ("cups", "3", 5)
    assert towels.manifest.model.device == "cpu" and cups.manifest.model.device == "cuda"
    assert [p.manifest.health_port for p in (towels, cups)] == [9100, 9101]


def test_a_process_of_its_own_runs_the_same_service(tmp_path):
    path = write(tmp_path, SERVICES)
    for plan in load([path], ["--health_port=9500", "--max_sessions=7"]):
        paths, flags = split_words([w for w in plan.words() if not w.startswith("--service")])
        again = load_one(paths, flags, plan.name)
        assert again.manifest == plan.manifest and again.manifest.max_sessions == 7


def test_services_on_cuda_get_a_gpu_each(tmp_path, monkeypatch):
    text = SERVICES.replace("    gpu: 3\n", "").replace("device: cpu", "device: cuda")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert [plan.gpu for plan in load([write(tmp_path, text)])] == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6")
    assert [plan.gpu for plan in load([write(tmp_path, text)])] == ["4", "6"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4")
    with pytest.raises(ManifestError, match="a GPU for each service"):
        load([write(tmp_path, text)])


def test_wrong_services_name_their_own_place(tmp_path):
    text = SERVICES.replace("max_sessions: 2", "max_sessions: 0").replace("device: cpu", "dtype: bf16")
    found = {problem.place: problem.where for problem in problems(tmp_path, text)}
    assert found == {
        "max_sessions": "services[0].max_sessions (m.yaml, line 7)",
        "model.dtype": "model.dtype (m.yaml, line 3)",  # common to both, told once
    }


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("health_port: 9300", "health_port of its own"),
        ("debug: {capture_dir: capture}", "debug.capture_dir of its own"),
        ("audit: {path: audit.jsonl}", "audit.path of its own"),
        ("zenoh: {mode: peer, connect_endpoints: [], listen_endpoints: ['tcp/[::1]:7447']}", "endpoints of its own"),
    ],
)  # fmt: skip
def test_what_two_processes_cannot_share_is_refused(tmp_path, line, said):
    text = SERVICES.replace("    max_sessions: 2\n", f"    {line}\n").replace("    gpu: 3\n", f"    {line}\n")
    assert said in problems(tmp_path, text)[0].wanted


def test_two_names_are_told_apart_and_a_wrong_one_gets_the_nearest(tmp_path):
    path = write(tmp_path, SERVICES)
    with pytest.raises(ManifestError, match="one service"):
        load_one([path])
    assert load_one([path], [], "cups").name == "cups"
    with pytest.raises(ManifestError) as caught:
        load([path], [], "cupz")
    assert caught.value.remedy == "did you mean cups?"
    with pytest.raises(ManifestError, match="a name of its own"):
        load([write(tmp_path, SERVICES.replace("name: cups", "name: towels"))])


def test_several_files_are_several_services(tmp_path):
    one, two = write(tmp_path, GOOD, "one.yaml"), write(tmp_path, GOOD + "health_port: 9500", "two.yaml")
    assert [(p.name, p.manifest.health_port) for p in load([one, two])] == [("one", 9100), ("two", 9500)]


# --- what is made from the model -----------------------------------------------------------------


def test_the_shipped_schema_is_current():
    assert manifest_schema.SCHEMA.read_text() == manifest_schema.text(), "run python docs/make_manifest.py"


def test_the_page_is_current():
    made = runpy.run_path(str(REPO / "docs/make_manifest.py"))["page"]()
    assert (REPO / "docs/manifest.md").read_text() == made, "run python docs/make_manifest.py"


@pytest.mark.parametrize("text", [GOOD, SERVICES, GOOD + "batching: {batch_max: null}\nmodel.x: 1\n"])
def test_the_schema_takes_what_the_loader_takes(tmp_path, text):
    tree = yaml.safe_load(text)
    wrong = list(jsonschema.Draft7Validator(json.loads(manifest_schema.text())).iter_errors(tree))
    try:
        load([write(tmp_path, text)])
    except ManifestError:
        assert wrong
    else:
        assert not wrong


def test_limits_are_those_of_the_wire():
    assert LimitSettings().limits() == Limits()


def test_a_manifest_made_in_python_is_checked_as_well():
    with pytest.raises(ValidationError):
        Manifest.model_validate({"model": {"repo_or_path": ""}, "zenoh": {"mode": "peer"}})
