"""What servers say when they refuse, and what is done about it."""

from __future__ import annotations

import pytest

from tasks.answers.client import CallError
from tasks.answers.failures import Verdict, fatal, judge
from tasks.settings import VlmSettings

TOO_MUCH = [
    (400, "This model's maximum context length is 16384 tokens. However, you requested 19591 tokens (9591 in the mess"),
    (400, "The decoder prompt (length 10127) is longer than the maximum model length of 8192. Make sure that `max_mo"),
    (400, "The prompt (total length 25938) is too long to fit into the model (context length 4096)."),
    (400, "'max_tokens' or 'max_completion_tokens' is too large: 4096. This model's maximum context length is 2048 t"),
    (400, "max_tokens must be at least 1, got -512."),
    (400, "The input (61709 tokens) is longer than the model's context length (40960 tokens)."),
    (400, "Input length (160062 tokens) exceeds the maximum allowed length (59862 tokens)."),
    (400, "request (12345 tokens) exceeds the available context size (4096 tokens), try increasing it"),
    (422, "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 1512. Given: 1000 `inputs` tokens a"),
    (422, "Input validation error: `inputs` must have less than 2048 tokens. Given: 2222"),
    (400, "Trying to keep the first 15857 tokens when context the overflows. However, the model is loaded with cont"),
    (400, "The number of tokens to keep from the initial prompt is greater than the context length (n_keep: 13055>= n"),
    (400, "prompt is too long: 210000 tokens > 200000 maximum"),
    (429, "Request too large for gpt-x on tokens per min (TPM): Limit 30000, Requested 41000."),
]
NO_USE = [
    (400, "API key not valid. Please pass a valid API key.", "vlm.api_key"),
    (401, "Incorrect API key provided: sk-abc.", "vlm.api_key"),
    (402, "Insufficient Balance", "account"),
    (400, "Your credit balance is too low to access the API.", "account"),
    (429, "You exceeded your current quota, please check your plan (insufficient_quota)", "account"),
    (404, "The model `x` does not exist. (model_not_found)", "vlm.model_id"),
    (404, 'model "x" not found, try pulling it first', "vlm.model_id"),
    (400, 'Invalid model identifier "x". There are no downloaded llm models with this identifier.', "vlm.model_id"),
    (404, "The API deployment for this resource does not exist. (DeploymentNotFound)", "vlm.model_id"),
    (500, "image input is not supported - hint: if this is unexpected, you may need to provide the mmproj", "vision"),
    (500, 'Failed to parse messages: Unsupported content part type: "image_url"; messages = [', "vision"),
    (400, "this model does not support image input (ref: b8bd630e)", "vision"),
    (400, "Model does not support images. Please use a model that does.", "vision"),
    (400, "x is not a multimodal model", "vision"),
    (400, "At most 0 image(s) may be provided in one prompt.", "vision"),
    (400, "Invalid content type. image_url is only supported by certain models.", "vision"),
    (404, "No endpoints found that support image input", "vision"),
    (422, "messages[0]: unknown variant `image_url`, expected `text`", "vision"),
    (400, "At most 0 video(s) may be provided in one prompt.", "plan.media=sheets"),
    (400, 'Unsupported content part type: "video_url"', "plan.media=sheets"),
    (400, "Cannot load local files without `--allowed-local-media-path`.", "vlm.video_as=data"),
]
REFUSED = [
    (400, "You set image=2 (or defaulted to 1) in `--limit-mm-per-prompt`, but passed 3 image items in the same pro"),
    (400, "At most 1 image(s) may be provided in one request."),
    (500, "std::bad_alloc"),
    (500, "apply_chat_template() got an unexpected keyword argument 'enable_thinking'"),
    (400, "max_tokens is too large: 32768. This model supports at most 16384 completion tokens"),
    (400, "`max_tokens` must be less than or equal to `8192`, less than the `context_window` for this model"),
    (400, "You uploaded an unsupported image. Please make sure your image is valid."),
    (422, "Unexpected fields in the request: {'mm_processor_kwargs'}"),
    (400, "chat_template is not supported for Mistral tokenizers."),
]
FORMAT = [
    (400, "Invalid schema for response_format 'A': In context=('properties', 'a'), 'minLength' is not permitted."),
    (400, "Failed to initialize samplers: failed to parse grammar"),
    (400, "'response_format.type' must be 'json_schema' or 'text'"),
    (400, "The provided JSON schema contains features not supported by xgrammar."),
    (
        400,
        "Invalid JSON payload received. Unknown name \"x\" at 'generation_config.response_schema': Cannot find field.",
    ),
]
PASSING = [
    (503, "Loading model"),
    (500, "model runner has unexpectedly stopped, this may be due to resource limitations"),
    (429, "Rate limit reached for gpt-x on tokens per min (TPM): Limit 30000, Used 29000, Requested 2000."),
    (500, "EngineCore encountered an issue."),
    (529, "Overloaded"),
]


@pytest.mark.parametrize(("status", "message"), TOO_MUCH)
def test_a_request_that_is_too_large_is_made_smaller(status, message):
    assert judge(CallError(status, message)) is Verdict.SHRINK


@pytest.mark.parametrize(("status", "message", "remedy"), NO_USE)
def test_what_no_request_can_change_ends_the_run_with_a_remedy(status, message, remedy):
    error = CallError(status, message)
    assert judge(error) is Verdict.FATAL
    told = fatal(error, VlmSettings(model_id="acme/see-7b"), where="http://second:8001/v1")
    assert remedy in told.remedy and message in told.got
    assert "http://second:8001/v1" in told.wanted and "localhost" not in told.wanted and "{" not in told.wanted


@pytest.mark.parametrize(("status", "message"), REFUSED)
def test_other_refusals_are_of_this_request_as_it_is(status, message):
    assert judge(CallError(status, message)) is Verdict.REFUSED


@pytest.mark.parametrize(("status", "message"), FORMAT)
def test_a_refused_format_is_told_from_all_else(status, message):
    assert judge(CallError(status, message)) is Verdict.FORMAT


@pytest.mark.parametrize(("status", "message"), PASSING)
def test_what_passes_is_tried_again(status, message):
    assert judge(CallError(status, message)) is Verdict.RETRY


def test_the_server_of_the_settings_is_named_when_no_other_is():
    told = fatal(CallError(401, "no"), VlmSettings(api_base="http://here:1/v1"))
    assert told.wanted == "access to http://here:1/v1"
