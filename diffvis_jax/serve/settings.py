"""The settings of a server: one tree. `settings_file` reads them.

Types are strict, so that YAML's `no` and `08` are told, not turned.
"""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from diffvis_jax.route.settings import ProviderSettings, RoutingSettings
from diffvis_jax.serve.protocol import Policy, Strict

Positive = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Megabytes = Annotated[float, Field(gt=0)]
Sampling = Literal["greedy", "temperature", "sorted"]
Screen = Annotated[str, Field(pattern=r"^\d{1,4}x\d{1,4}$")]


class ModelSettings(Strict):
    """Which model, and how it sees.

    Attributes:
      path: bundled name, directory, checkpoint or hf:REPO.
      name: by which clients ask for it; None = that of the directory.
      dtype, decode_dtype: as of `diffvis predict`.
      policy: what encodes leave out, unless a request says otherwise.
      prefill: "bounded" is an approximation; of the policies faithful and fast alone.
      conversation: template of prompts; None = the model's own.
      images: "latest" shows only the newest picture of a conversation.
      temperature: of requests that give none.
      answer_tokens: ids of an answer at most, of requests that do not say; longer ones may compile.
    """

    path: str
    name: str | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    decode_dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    policy: Policy = "faithful"
    prefill: Literal["exact", "bounded"] = "exact"
    conversation: str | None = None
    images: Literal["all", "latest"] = "all"
    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    answer_tokens: Positive = 256


class ServeSettings(Strict):
    """Where it listens, and what it keeps.

    Attributes:
      host, port: an address beyond this machine needs keys.
      hosts: further names by which clients may call it, beside `host` and localhost.
      memory_mb: of sessions; None = a quarter of what is free at the start.
      frames_mb: of frames of pictures that were sent, which need not be decoded again.
      session_ttl_s: idle sessions are forgotten after so long.
      max_sessions_per_key: sessions of one client.
      api_key_file, api_key_env: where keys are read from, one a line, or separated by commas.
      policy_override: whether requests may choose a policy.
      settle_idle: whether the time between requests is used to make up what encodes left out.
      warm_lengths, warm_sampling, warm_screens: what is compiled before the server is ready: the
        first so many lengths of prompts, ways to choose ids, sizes of screens.
      max_running: answers that are made in turn.
      decode_threads: that decode and resize pictures.
      drain_s: how long running answers have when the server is told to end.
    """

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8077
    hosts: Sequence[str] = ()
    memory_mb: Megabytes | None = None
    frames_mb: Megabytes = 256.0
    session_ttl_s: Seconds = 900.0
    max_sessions_per_key: Positive = 64
    api_key_file: str | None = None
    api_key_env: str = "DIFFVIS_API_KEYS"
    policy_override: bool = True
    settle_idle: bool = True
    warm_lengths: Annotated[int, Field(ge=0, le=16)] = 6
    warm_sampling: Sequence[Sampling] = ("greedy", "temperature", "sorted")
    warm_screens: Sequence[Screen] = ("1920x1080",)
    max_running: Positive = 4
    decode_threads: Positive = 2
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 30.0


class Limits(Strict):
    """What is refused, and how long anything may take.

    Attributes:
      body_mb, body_timeout_s: of a request.
      image_mb, image_megapixels, image_side: of a picture: its file, its pixels.
      images: pictures of a request.
      queue: requests that wait, beside those that run.
      running_per_key: requests of one client at a time.
      timeout_s: from the arrival of a request to the end of its answer.
      send_timeout_s: a client that reads nothing for so long is given up.
      ping_s: between signs of life in a stream.
      connections: open at a time.
    """

    body_mb: Megabytes = 24.0
    body_timeout_s: Seconds = 30.0
    image_mb: Megabytes = 8.0
    image_megapixels: Megabytes = 16.0
    image_side: Positive = 8192
    images: Positive = 8
    queue: Positive = 32
    running_per_key: Positive = 4
    timeout_s: Seconds = 120.0
    send_timeout_s: Seconds = 20.0
    ping_s: Seconds = 10.0
    connections: Positive = 256


class AnswerSettings(Strict):
    """Answers at temperature 0 that are given again, see `AnswerCache`.

    Attributes:
      enabled: an agent that is stuck on a screen gets the same answer again, `max_repeats` times.
      file: of the answers, in their texts; ":memory:" = they end with the server.
    """

    enabled: bool = False
    file: str = ":memory:"
    ttl_s: Seconds = 300.0
    max_entries: Positive = 100
    max_repeats: Positive = 3


class ReuseSettings(Strict):
    """What was computed before.

    Attributes:
      features_mb: tokens of pictures that were encoded whole, kept for the other sessions of a
        client; 0 = none are.
    """

    features_mb: Annotated[float, Field(ge=0)] = 64.0
    answers: AnswerSettings = AnswerSettings()


class Settings(Strict):
    """All of it; `providers` and `routing` are those of docs/routing.md."""

    preset: str | None = None
    model: ModelSettings
    serve: ServeSettings = ServeSettings()
    limits: Limits = Limits()
    reuse: ReuseSettings = ReuseSettings()
    providers: dict[str, ProviderSettings] = Field(default_factory=dict)
    routing: RoutingSettings = RoutingSettings()
