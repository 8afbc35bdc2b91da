"""The one place where a client of the hub is made, and where its errors become ours."""

from __future__ import annotations

import importlib.metadata
import os
import re
import sys
from typing import TYPE_CHECKING

from tasks.errors import AnnotateError, PublishError

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ENDPOINT_ENV = "HF_ENDPOINT"
REASON_CHARS_MAX = 400
NO_TOKEN_IN_TEXT = re.compile(r"\bhf_[A-Za-z0-9]{8,}\b")
REMEDIES = {
    401: "log in again (hf auth login), or set HF_TOKEN to a token that is valid",
    402: "the hub asks for payment: see the billing page of the account",
    403: "use a token with write access to that namespace (hf auth login), or another target",
    404: "check the name",
    409: "somebody else is changing the same repository: run again",
    412: "the repository changed meanwhile: run again",
    413: "the request is too large for the hub: publish fewer files",
    429: "the hub asks for a pause: run again in some minutes",
}
REMEDY_SERVER = "the hub has a problem of its own: run again; files that arrived are not sent again"
REMEDY_NETWORK = "check the network, then run again; files that arrived are not sent again"


def hub_api(token: str | None = None) -> HfApi:
    """A client of the hub at HF_ENDPOINT as it is set now (the library reads it only once, at import)."""
    from huggingface_hub import HfApi

    endpoint = (os.environ.get(ENDPOINT_ENV) or "").rstrip("/") or None
    version = importlib.metadata.version("cuebook")
    return HfApi(endpoint=endpoint, token=token, library_name="cuebook", library_version=version)


def login_token() -> str | None:
    """The token of this user: HF_TOKEN, or that of the last login."""
    from huggingface_hub import get_token

    return get_token()


def hub_errors() -> tuple[type[Exception], ...]:
    """All that a call of the hub may raise. Its versions send requests by different HTTP libraries."""
    from huggingface_hub import get_session
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    transport = sys.modules[type(get_session()).__module__.partition(".")[0]]
    return (HfHubHTTPError, HFValidationError, transport.HTTPError, OSError)


def status_of(err: BaseException) -> int | None:
    """The HTTP status behind an error; None when there was no answer."""
    response = getattr(err, "response", None)
    return getattr(response, "status_code", None)


def hub_reason(err: BaseException) -> str:
    """What the hub said, in one line, without anything that looks like a token."""
    said = getattr(err, "server_message", None) or str(err)
    cause = err.__cause__
    if isinstance(err, RuntimeError) and cause is not None:  # the upload of one file: says which, the cause says why
        said = f"{said} {cause}"
    line = " ".join(str(said).split()) or type(err).__name__
    status = status_of(err)
    if status is not None and str(status) not in line:
        line = f"{status}: {line}"
    return NO_TOKEN_IN_TEXT.sub("hf_***", line)[:REASON_CHARS_MAX]


def hub_problem(wanted: str, err: BaseException, kind: type[AnnotateError] = PublishError) -> AnnotateError:
    """The error for a call of the hub that failed."""
    status = status_of(err) or status_of(err.__cause__ or err)
    if status is None:
        remedy = REMEDY_NETWORK
    else:
        remedy = REMEDIES.get(status, REMEDY_SERVER if status >= 500 else "see what the hub says")
    return kind(wanted, hub_reason(err), remedy)
