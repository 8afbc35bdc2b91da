"""Dotted flags: what is typed becomes settings, and what is wrong is named with the nearest right one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.flags import build, describe, leaves, parse
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings

KNOWN = [name for name, _ in leaves(AnnotateSettings)]


def settings(*flags: str, config=None) -> AnnotateSettings:
    return build(AnnotateSettings, parse(flags, KNOWN), config)


def test_dotted_flags_reach_nested_sections():
    s = settings("--root=/data/x", "--plan.max_steps=6", "--vlm.backend", "openai", "--plan.task_aug_axes.omit_arm=1")
    assert (str(s.root), s.plan.max_steps, s.vlm.backend, s.plan.task_aug_axes.omit_arm) == ("/data/x", 6, "openai", 1)


@pytest.mark.parametrize("text", ["plan,vqa", "[plan, vqa]", "[plan,vqa]"])
def test_lists_with_and_without_brackets(text):
    assert settings(f"--phases={text}").phases == ["plan", "vqa"]


def test_one_number_is_a_list_too():
    assert settings("--only_episodes=3").only_episodes == [3]


def test_bare_flag_is_true_and_null_is_none():
    s = settings("--strict", "--only_episodes=null", "--vlm.camera_key=none")
    assert s.strict is True and s.only_episodes is None and s.vlm.camera_key is None


def test_text_stays_text_even_when_it_looks_like_a_number():
    assert settings("--vlm.model_id=007", "--vlm.api_key=1e5").vlm.model_id == "007"


def test_mappings_are_yaml():
    s = settings("--vlm.chat_template_kwargs={enable_thinking: false}")
    assert s.vlm.chat_template_kwargs == {"enable_thinking": False}


@pytest.mark.parametrize(
    ("flag", "nearest"),
    [("--plan.max_step=3", "--plan.max_steps"), ("--rot=x", "--root"), ("--api_base=x", "--vlm.api_base")],
)
def test_unknown_flag_names_the_nearest(flag, nearest):
    with pytest.raises(SettingsError, match="known flag") as caught:
        settings(flag)
    assert nearest in caught.value.remedy


@pytest.mark.parametrize(
    "flag",
    [
        "--plan.max_steps=many",
        "--phases=plan,dance",
        "--vlm.backend=oracle",
        "--plan.frames_per_second=0",
        "--seed=1.5",
    ],
)
def test_wrong_values_name_the_setting_and_what_was_given(flag):
    with pytest.raises(SettingsError) as caught:
        settings(flag)
    name, value = flag[2:].split("=")
    assert name in caught.value.got and value.split(",")[-1].rstrip("0") in caught.value.got


def test_flags_win_over_the_file(tmp_path):
    file = tmp_path / "s.yaml"
    file.write_text("plan:\n  max_steps: 5\n  emit_plan: false\nseed: 3\n")
    s = settings("--plan.max_steps=7", config=file)
    assert (s.plan.max_steps, s.plan.emit_plan, s.seed) == (7, False, 3)


@pytest.mark.parametrize("text", ["plan: {max_step: 5}", "- a list", "a: [", "\x00"])
def test_wrong_files_are_settings_errors(tmp_path, text):
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError):
        settings(config=file)


def test_missing_file_is_a_settings_error(tmp_path):
    with pytest.raises(SettingsError, match="readable"):
        settings(config=tmp_path / "none.yaml")


def test_every_setting_is_described():
    flags = [row[0] for row in describe(AnnotateSettings)]
    assert flags == [f"--{name}" for name in KNOWN]
    assert "--vlm.api_base" in flags and "--plan.task_aug_axes.enabled" in flags


@given(st.lists(st.text(max_size=30), max_size=5))
def test_any_words_parse_or_give_a_settings_error(words):
    try:
        build(AnnotateSettings, parse(words, KNOWN))
    except SettingsError as error:
        assert error.wanted
