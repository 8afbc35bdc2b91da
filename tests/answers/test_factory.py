"""Settings name the answerer."""

from __future__ import annotations

import pytest

from tasks.answers.factory import make_answerer
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.replay import RecordingAnswerer, ReplayAnswerer
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings, VlmSettings


def made(**vlm: object):
    answerer = make_answerer(AnnotateSettings(vlm=VlmSettings(**vlm)), dataset=None)
    answerer.close()
    return answerer


def test_each_backend_has_its_answerer(tmp_path):
    assert isinstance(made(backend="openai"), OpenAIAnswerer)
    assert isinstance(made(backend="replay", replay_path=tmp_path / "a.jsonl"), ReplayAnswerer)


def test_the_answerer_of_a_server_has_the_models_name():
    answerer = made(backend="openai", model_id="some/model")
    assert (answerer.model_id, answerer.needs_pictures, answerer.vqa_types) == ("some/model", True, None)


def test_recording_wraps_the_backend(tmp_path):
    answerer = made(backend="openai", model_id="some/model", record_path=tmp_path / "a.jsonl")
    assert isinstance(answerer, RecordingAnswerer) and answerer.model_id == "some/model"


@pytest.mark.parametrize(
    ("vlm", "words"),
    [
        ({"backend": "replay"}, "--vlm.replay_path"),
        ({"backend": "motion", "auto_serve": True}, "backend=openai"),
        ({"backend": "replay", "replay_path": "a.jsonl", "record_path": "a.jsonl"}, "another file"),
    ],
)
def test_impossible_settings_say_what_to_do(vlm, words):
    with pytest.raises(SettingsError, match=words):
        made(**vlm)
