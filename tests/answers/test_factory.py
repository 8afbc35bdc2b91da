"""Settings name the answerer, and where its calls are recorded."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.answers.factory import ledger_path, make_answerer
from tasks.answers.motion import MotionAnswerer
from tasks.answers.openai import OpenAIAnswerer
from tasks.answers.replay import ReplayAnswerer
from tasks.errors import SettingsError
from tasks.settings import AnnotateSettings, VlmSettings


def made(**vlm: object):
    answerer = make_answerer(AnnotateSettings(vlm=VlmSettings(**vlm)), dataset=None)
    answerer.close()
    return answerer


def test_each_backend_has_its_answerer(tmp_path):
    assert isinstance(made(backend="openai"), OpenAIAnswerer)
    assert isinstance(made(backend="replay", replay_path=tmp_path / "a.jsonl"), ReplayAnswerer)
    assert isinstance(made(backend="motion"), MotionAnswerer)


def test_the_answerer_of_a_server_has_the_models_name():
    answerer = made(backend="openai", model_id="some/model")
    assert (answerer.model_id, answerer.needs_pictures, answerer.vqa_types) == ("some/model", True, None)


@pytest.mark.parametrize(
    ("vlm", "path"),
    [
        ({"backend": "openai"}, "/d/.annotate_staging/ledger.jsonl"),
        ({"backend": "transformers"}, "/d/.annotate_staging/ledger.jsonl"),
        ({"backend": "vllm"}, "/d/.annotate_staging/ledger.jsonl"),
        ({"backend": "openai", "record_path": "/r.jsonl"}, "/r.jsonl"),
        ({"backend": "motion"}, None),
        ({"backend": "motion", "record_path": "/r.jsonl"}, "/r.jsonl"),
        ({"backend": "replay", "replay_path": "/a.jsonl"}, None),
    ],
)
def test_calls_of_a_model_are_recorded_and_others_on_demand(vlm, path):
    settings = AnnotateSettings(root=Path("/d"), vlm=VlmSettings(**vlm))
    assert ledger_path(settings) == (None if path is None else Path(path))


def test_the_ledger_lies_where_the_run_stages():
    settings = AnnotateSettings(root=Path("/d"), output=Path("/o/new"), vlm=VlmSettings(backend="openai"))
    assert ledger_path(settings) == Path("/o/.new.annotate_staging/ledger.jsonl")


@pytest.mark.parametrize(
    ("vlm", "words"),
    [
        ({"backend": "replay"}, "--vlm.replay_path"),
        ({"backend": "motion", "auto_serve": True}, "backend=openai"),
        ({"backend": "replay", "replay_path": "a.jsonl", "record_path": "a.jsonl"}, "another file"),
        ({"backend": "replay", "replay_path": "folder", "record_path": "folder/ledger.jsonl"}, "another file"),
    ],
)
def test_impossible_settings_say_what_to_do(vlm, words):
    with pytest.raises(SettingsError, match=words):
        made(**vlm)
