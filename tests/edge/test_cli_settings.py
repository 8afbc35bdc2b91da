"""From flags and a file to settings: everything wrong is named, with what was probably meant."""

from __future__ import annotations

import pytest
import yaml

from edge.errors import SettingsError
from edge.run_settings import described, load
from serving.wire.keys import Keys

ROBOT = ["--robot.type=dataset", "--robot.root=somewhere"]
LEAST = ["--policy.path=me/towels", *ROBOT]


def problem(*words, config=None):
    with pytest.raises(SettingsError) as caught:
        load(words, config)
    return caught.value


def test_every_section_takes_flags():
    settings = load(
        [
            *LEAST, "--task", "fold the towel", "--fps=20", "--duration=60", "--dry_run", "--strategy.type=episodic",
            "--strategy.num_episodes=3", "--inference.connect_endpoint=tcp/a:1,tcp/b:2",
            "--inference.rtc.enabled=false",
            "--inference.rename_map={front: observation.images.top}", "--inference.tags.site=lab",
            "--safety.range.gripper=[0, 1]", "--safety.step_max={arm: 0.1}", "--display=rerun", "--display.save=r.rrd",
            "--dataset.root=out", "--robot.cameras=front,wrist",
        ]
    )  # fmt: skip
    assert (settings.task, settings.fps, settings.duration, settings.dry_run) == ("fold the towel", 20.0, 60.0, True)
    assert settings.inference.connect_endpoint == ["tcp/a:1", "tcp/b:2"] and not settings.inference.rtc.enabled
    assert settings.inference.rename_map == {"front": "observation.images.top"} and settings.inference.tags == {
        "site": "lab"
    }
    assert settings.safety.range == {"gripper": (0.0, 1.0)} and settings.safety.step_max == {"arm": 0.1}
    assert (settings.display.type, str(settings.display.save)) == ("rerun", "r.rrd")
    assert settings.type_of("strategy") == "episodic" and settings.options("strategy") == {"num_episodes": 3}
    assert settings.type_of("robot") == "dataset" and settings.options("robot")["cameras"] == ["front", "wrist"]
    assert str(settings.dataset.root) == "out" and settings.type_of("teleop") == ""
    assert settings.rollout().fps == 20.0 and "fps" in settings.model_fields_set


def test_flags_win_over_the_file(tmp_path):
    config = tmp_path / "towels.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "policy": {"path": "me/towels"}, "robot": {"type": "dataset", "root": "there"}, "fps": 15,
                "inference": {"connect_endpoint": "tcp/a:1"}, "display": "none", "dataset": None,
            }
        )
    )  # fmt: skip
    settings = load(["--fps=50", "--task=x"], config)
    assert (settings.fps, settings.task, settings.policy.path) == (50.0, "x", "me/towels")
    assert settings.inference.connect_endpoint == ["tcp/a:1"]
    assert str(settings.options("robot")["root"]) == "there"


def test_keys_of_other_robots_pass_unchecked_to_whoever_knows_them():
    settings = load(
        [
            "--policy.path=me/towels", "--robot.type=so101_follower", "--robot.port=/dev/ttyACM0",
            "--robot.cameras={front: {type: opencv, index_or_path: 0}}", "--robot.cameras.front.fps=30",
        ]
    )  # fmt: skip
    options = settings.options("robot")
    assert options["port"] == "/dev/ttyACM0" and options["cameras"]["front"]["type"] == "opencv"


@pytest.mark.parametrize(
    ("word", "meant"),
    [
        ("--inference.connect_endpoin=tcp/a:1", "--inference.connect_endpoint"),
        ("--inference.degraded_after=1", "--inference.degraded_after_s"),
        ("--fsp=30", "--fps"),
        ("--robot.rot=x", "--robot.root"),
        ("--display_data=true", "--display=rerun"),
        ("--server_address=a:1", "--inference.connect_endpoint"),
        ("--connect_endpoint=tcp/a:1", "--inference.connect_endpoint"),
        ("--dataset.repo_idd=a/rollout_b", "--dataset.repo_id"),
        ("--strategy.num_episodes=3", ""),  # of another strategy
    ],
)
def test_the_nearest_flag_is_named(word, meant):
    error = problem(*LEAST, word)
    assert word.partition("=")[0] in str(error) and meant in str(error) and error.problems


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "want a robot"),
        (ROBOT, "want a policy"),
        ([*LEAST, "--fps=0"], "more than 0"),
        ([*LEAST, "--fps=nan"], "finite"),
        ([*LEAST, "--inference.fallback=freeze"], "hold"),
        ([*LEAST, "--inference.connect_endpoint=here"], "PROTOCOL/ADDRESS"),
        ([*LEAST, "--inference.tls_ca=a.pem"], "together"),
        ([*LEAST, "--inference.connect_endpoint=tls/a:1"], "tls_ca"),
        ([*LEAST, "--inference.rtc.max_guidance_weight=5"], "server's manifest"),
        ([*LEAST, "--strategy.type=epsodic"], "episodic"),
        ([*LEAST, "--teleop.port=x"], "teleoperator's type"),
        ([*LEAST, "--display.save=a.rrd"], "--display=rerun"),
        ([*LEAST, "--inference.client_uuid=server"], "reserved"),
        ([*LEAST, "--policy.path=///"], "key"),
        ([*LEAST, "--dataset.repo_id=me/towels"], "rollout_"),
        ([*LEAST, "fold"], "flags like"),
        ([*LEAST, "--robot.root", "a", "--safety.range={arm: [2, 1]}"], "min below max"),
    ],
)
def test_what_cannot_be_is_refused(words, said):
    error = problem(*words)
    assert said in str(error) and "do:" in str(error)


def test_everything_wrong_is_named_at_once_with_its_place(tmp_path):
    config = tmp_path / "towels.yaml"
    config.write_text("policy: {path: me/towels}\nrobot: {type: dataset, root: a}\nfps: -1\ninference:\n  jpeg: 5\n")
    error = problem("--duration=-3", config=config)
    assert [p.place for p in error.problems] == ["inference.jpeg", "fps", "duration"]
    assert "towels.yaml, line 3" in str(error) and "--duration" in str(error) and "jpeg_quality" in str(error)
    with pytest.raises(SettingsError, match="config_path"):
        load([], tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "more",
    [[], ["--inference.service_revision=v2"], ["--inference.service_task=Fold it"], ["--task=stack the cups!"]],
)
def test_keys_are_those_of_the_server(more):
    """The manifest of a server with the same model, revision and task comes to the same key."""
    from serving.manifest import Manifest

    settings = load([*LEAST, *more])
    network = {"mode": "peer", "listen_endpoints": ["tcp/127.0.0.1:0"]}
    model = {"repo_or_path": "me/towels", "revision": settings.inference.service_revision}
    named = {"service_name": settings.inference.service_task, "default_task": settings.task}
    assert settings.keys() == Manifest.model_validate({"model": model, "zenoh": network, **named}).keys()
    other = load([*LEAST, "--inference.service_model_id=acme/other"])
    assert other.keys() == Keys.of("acme/other", "main")


def test_fields_of_a_robot_are_listed_when_it_is_named():
    plain, of_dataset = list(described([])), list(described(["--robot.type=dataset"]))
    assert "--robot.root" not in [row[0] for row in plain] and "--robot.root" in [row[0] for row in of_dataset]
    assert all(meaning for *_, meaning in of_dataset)
