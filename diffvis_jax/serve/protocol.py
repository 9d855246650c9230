"""What clients may send, as pydantic models; what they are answered, as OpenAI's servers do.

What a server of OpenAI's kind might know and this one does not is refused by its name: nothing is
ignored silently.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from diffvis_jax.errors import DiffvisError

Policy = Literal["exact", "faithful", "fast", "whole", "off"]

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    503: "server_error",
    504: "timeout_error",
}


class ApiError(DiffvisError):
    """What a client is told.

    Attributes:
      status: of HTTP.
      code: a word for programs.
      param: what is wrong, such as `messages[1].content[0]`.
      headers: of the response.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status, self.code, self.param, self.headers = status, code, param, headers or {}

    def body(self) -> bytes:
        """As JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        error = {"message": str(self), "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class TextPart(Strict):
    type: Literal["text"]
    text: str


class ImageURL(Strict):
    url: str
    detail: Literal["auto", "low", "high", "original"] | None = None


class ImagePart(Strict):
    type: Literal["image_url"]
    image_url: ImageURL


def _as_parts(value: Any) -> Any:
    return [{"type": "text", "text": value}] if isinstance(value, str) else value


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Parts = Annotated[
    list[Annotated[TextPart | ImagePart, Field(discriminator="type")]],
    BeforeValidator(_as_parts),
    Field(min_length=1),
]
Stops = Annotated[list[Annotated[str, Field(min_length=1, max_length=256)]], Field(max_length=4)]
Nothing = Annotated[list[Any], Field(max_length=0)] | None


class ChatMessage(Strict):
    role: Literal["system", "user", "assistant"]
    content: Parts
    name: str | None = None
    # What OpenAI's own answers bring along.
    refusal: None = None
    annotations: Nothing = None
    audio: None = None
    tool_calls: Nothing = None
    function_call: None = None


class StreamOptions(Strict):
    include_usage: bool | None = None
    include_obfuscation: Literal[False] | None = None


class RegionHint(Strict):
    """See `route.labels.Region`."""

    box: Annotated[list[float], Field(min_length=4, max_length=4)]
    kind: Literal["password", "field", "window", "text", "user"]
    label: Annotated[str, Field(max_length=500)] = ""
    source: Literal["dom", "accessibility", "title", "user"] = "user"


class ScreenHint(Strict):
    """Of one picture: what is not for everybody; None = nobody has looked."""

    regions: Annotated[list[RegionHint], Field(max_length=1000)] | None = None
    viewport: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


class Hints(Strict):
    """The client's `diffvis` object.

    Attributes:
      policy: what may be left out of encodes: "exact", "faithful", "fast"; "whole": a picture that
        is not known is encoded in full; "off": nothing is kept, everything is computed anew.
      session: a name of the client's for what belongs together, or the id of a session.
      operation, sensitivity, complexity, window_titles, screens: labels for the router, see
        `route.labels.Task`; `screens` are those of all pictures, in order.
    """

    policy: Policy | None = None
    session: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    operation: Literal["grounding", "reading", "planning", "reasoning"] = "reasoning"
    sensitivity: Literal["public", "internal", "confidential"] | None = None
    complexity: Literal["simple", "moderate", "complex"] | None = None
    window_titles: Annotated[list[str], Field(max_length=100)] = []
    screens: list[ScreenHint] | None = None


# What may stand there without effect, of everything that has one elsewhere.
_UNSUPPORTED: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "tools": (None, []),
    "tool_choice": (None, "none", "auto"),
    "parallel_tool_calls": (None, True, False),
    "functions": (None, []),
    "function_call": (None, "none", "auto"),
    "response_format": (None, {"type": "text"}),
    "logprobs": (None, False),
    "top_logprobs": (None, 0),
    "logit_bias": (None, {}),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "modalities": (None, ["text"]),
    "audio": (None,),
    "prediction": (None,),
    "reasoning_effort": (None, "none"),
    "verbosity": (None, "medium"),
    "web_search_options": (None,),
    "moderation": (None,),
    "prompt_cache_retention": (None,),
}


class ChatRequest(Strict):
    """The body of `POST /v1/chat/completions`."""

    model: str
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=2048)]
    max_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=2**31)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    stop: Annotated[Stops | None, BeforeValidator(_as_list)] = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    prompt_cache_key: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    diffvis: Hints = Hints()
    # Taken without effect.
    user: str | None = None
    safety_identifier: str | None = None
    metadata: dict[str, str] | None = None
    store: bool | None = None
    service_tier: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _check_unsupported(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        for name, harmless in _UNSUPPORTED.items():
            given = value.get(name)
            if not any(given == x and type(given) is type(x) for x in harmless) and not (
                isinstance(given, float) and given == 0 and 0 in harmless
            ):
                raise PydanticCustomError(
                    "unsupported_parameter", "{param} is not supported here", {"param": name}
                )
        return {name: part for name, part in value.items() if name not in _UNSUPPORTED}

    @model_validator(mode="after")
    def _check_together(self) -> ChatRequest:
        if self.stream_options is not None and not self.stream:
            raise PydanticCustomError(
                "together", "stream_options need stream", {"param": "stream_options"}
            )
        if self.max_tokens is not None and self.max_completion_tokens is not None:
            raise PydanticCustomError(
                "together", "give max_completion_tokens or max_tokens", {"param": "max_tokens"}
            )
        return self

    @property
    def limit(self) -> int | None:
        """Ids of the answer at most; None = not said."""
        return self.max_tokens if self.max_completion_tokens is None else self.max_completion_tokens

    def images(self) -> Iterator[tuple[str, ImageURL]]:
        """Every picture, and where it stands."""
        for i, message in enumerate(self.messages):
            for j, part in enumerate(message.content):
                if isinstance(part, ImagePart):
                    yield f"messages[{i}].content[{j}]", part.image_url


def parse_request(body: bytes) -> ChatRequest:
    """The request.

    Raises:
      ApiError: 400, about the first thing that is wrong.
    """
    try:
        return ChatRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
    kind = first["type"]
    param = (first.get("ctx") or {}).get("param") or path_of(first["loc"])
    unsupported = kind == "unsupported_parameter"
    raise ApiError(
        400,
        kind if unsupported else "invalid_request",
        _words(first) if unsupported or not param else f"{param}: {_words(first)}",
        param or None,
    )


def _words(error: ErrorDetails) -> str:
    if error["type"] == "extra_forbidden":
        return "there is no such parameter"
    return error["msg"]


def path_of(loc: tuple[int | str, ...]) -> str:
    """A place in the body, such as `messages[1].content[0].text`; the kind of a part, which
    pydantic puts after its number, is left out."""
    path = ""
    for n, part in enumerate(loc):
        if isinstance(part, int):
            path += f"[{part}]"
        elif n < 2 or loc[n - 2] != "content":
            path += f".{part}" if path else part
    return path


# ---- answers ----------------------------------------------------------------------------------


def usage(prompt: int, completion: int, cached: int) -> dict[str, Any]:
    """Positions of the prompt, ids of the answer, and positions whose keys and values were kept."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def completion(head: dict[str, Any], text: str, reason: str, **more: Any) -> dict[str, Any]:
    """A whole answer; `head` has id, created, model and system_fingerprint."""
    message = {"role": "assistant", "content": text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": reason, "logprobs": None}
    return {**head, "object": "chat.completion", "choices": [choice], **more}


def chunk(
    head: dict[str, Any], delta: dict[str, Any] | None, reason: str | None = None, **more: Any
) -> dict[str, Any]:
    """A piece of one; without `delta` there is no choice in it."""
    choice = {"index": 0, "delta": delta, "finish_reason": reason, "logprobs": None}
    choices = [] if delta is None else [choice]
    return {**head, "object": "chat.completion.chunk", "choices": choices, **more}
