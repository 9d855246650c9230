"""Rules, guard and providers as they are written down; a settings tree can include these models.

Strict: YAML's `no` is no text, and what is misspelt is an error.
"""

import importlib.resources
import os
import re
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

import pydantic
import yaml
from pydantic import Field

from diffvis_jax.errors import ConfigError
from diffvis_jax.providers.chat import Provider
from diffvis_jax.providers.http import beyond
from diffvis_jax.providers.ollama_native import OllamaNative
from diffvis_jax.providers.openai_like import OpenAILike
from diffvis_jax.providers.vllm_tokens import VLLMTokens
from diffvis_jax.route.classify import Words, whole_words
from diffvis_jax.route.decide import Rule, Rules, Sent
from diffvis_jax.route.labels import Complexity, Operation, Sensitivity

Level: TypeAlias = Literal["public", "internal", "confidential"]
T = TypeVar("T")
Many = Annotated[tuple[T, ...], Field(strict=False)]  # a list, as YAML has them
PRESETS = ("local_only", "hybrid", "cloud_first")
# What Presidio has patterns for.
_RECOGNIZED = ("CreditCard", "Iban", "Email", "Phone", "Ip", "UsSsn", "Nhs", "UkNino")


class _Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", strict=True, frozen=True, hide_input_in_errors=True
    )


class ProviderSettings(_Model):
    """One engine. A key is never written here: its variable or its file is."""

    kind: Literal["openai", "ollama", "vllm_tokens"]
    base_url: str
    model: str
    dialect: Literal["openai", "vllm", "sglang", "llamacpp", "openrouter"] = "openai"
    layout: Literal["prompt_embeds", "image_embeds"] = "prompt_embeds"
    remote: bool = False
    trusted_hosts: Many[str] = ()
    context: Annotated[int, Field(ge=512)] = 16384
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    api_key_env: str | None = None
    api_key_file: str | None = None

    @pydantic.model_validator(mode="before")
    @classmethod
    def _no_key(cls, given: Any) -> Any:
        if isinstance(given, dict) and "api_key" in given:
            raise ValueError("a key in a file is read by others: use api_key_env or api_key_file")
        return given

    @pydantic.model_validator(mode="after")
    def _address(self) -> "ProviderSettings":
        beyond(self.base_url, self.trusted_hosts)  # a ConfigError is a ValueError
        return self

    @property
    def is_remote(self) -> bool:
        """Whether what it is given leaves this machine."""
        cloud = self.kind == "ollama" and self.model.endswith("cloud")
        return self.remote or cloud or beyond(self.base_url, self.trusted_hosts)


class When(_Model):
    """Which tasks; none named = all."""

    sensitivity: Many[Level] = ()
    complexity: Many[Literal["simple", "moderate", "complex"]] = ()
    operation: Many[Operation] = ()


class Send(_Model):
    to: str
    what: Sent = "masked"


class RuleSettings(_Model):
    when: When = When()
    send: Send


class WordSettings(_Model):
    """Words that raise a task, or say how complex it is; any language, one case."""

    confidential: Many[str] = ()
    internal: Many[str] = ()
    simple: Many[str] = ()
    complex: Many[str] = ()


class GuardSettings(_Model):
    """What is done to what leaves.

    `titles`: patterns of window titles -> what a task is that shows such a window without a box;
    with one, the window is masked. `pii`: personal data in texts becomes marks, or stays.
    """

    margin_px: Annotated[int, Field(ge=0)] = 16  # masked around each region
    titles: dict[str, Level] = {
        r"(?i)keepass|1password|bitwarden|lastpass|bank|wallet": "confidential"
    }
    pii: Literal["mark", "block"] = "mark"
    presidio: bool | None = None  # whether it is used; None = where it is installed
    recognizers: Many[str] = tuple(f"{kind}Recognizer" for kind in _RECOGNIZED)
    require_regions: bool = True  # a picture without a list of regions stays
    keyframe_every: Annotated[int, Field(ge=1)] = 8  # with `what: changes`: a whole picture

    @pydantic.field_validator("titles")
    @classmethod
    def _patterns(cls, titles: dict[str, Level]) -> dict[str, Level]:
        for pattern in titles:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f"{pattern!r} is no pattern: {error}") from None
        return titles


class AuditSettings(_Model):
    file: str = "audit.jsonl"


class RoutingSettings(_Model):
    """The router; with `allow_remote: false` a provider beyond this machine is an error."""

    allow_remote: bool = True
    unlabelled: Level = "confidential"
    force_local: bool = False
    rules: Many[RuleSettings] = ()
    words: WordSettings = WordSettings()
    guard: GuardSettings = GuardSettings()
    audit: AuditSettings = AuditSettings()

    def make_rules(self, providers: Mapping[str, ProviderSettings], local: str = "here") -> Rules:
        """The rules, checked; raises ConfigError with all that is wrong with them."""
        rows = tuple(
            Rule(
                to=row.send.to,
                what=row.send.what,
                sensitivity=frozenset(map(_level, row.when.sensitivity)),
                complexity=frozenset(Complexity[x.upper()] for x in row.when.complexity),
                operation=frozenset(row.when.operation),
            )
            for row in self.rules
        )
        remote = {name: settings.is_remote for name, settings in providers.items()}
        if not self.allow_remote and any(remote.values()):
            names = ", ".join(name for name in remote if remote[name])
            raise ConfigError(f"allow_remote is false, and {names} is beyond this machine")
        return Rules(rows, {local: False} | remote, local, self.force_local)

    def make_words(self) -> Words:
        """The rules on words."""
        words, titles = self.words, self.guard.titles.items()
        raising = (
            (whole_words(words.confidential), Sensitivity.CONFIDENTIAL),
            (whole_words(words.internal), Sensitivity.INTERNAL),
        )
        return Words(
            raising=tuple((pattern, level) for pattern, level in raising if pattern),
            titles=tuple((re.compile(pattern), _level(name)) for pattern, name in titles),
            simple=whole_words(words.simple),
            complex=whole_words(words.complex),
            unlabelled=_level(self.unlabelled),
            block_pii=self.guard.pii == "block",
        )


def _level(name: str) -> Sensitivity:
    return Sensitivity[name.upper()]


def preset(name: str) -> dict[str, Any]:
    """What a preset says of `routing`, for a settings file to go over; raises ConfigError."""
    if name not in PRESETS:
        raise ConfigError(f"no preset {name!r}: there are {', '.join(PRESETS)}")
    file = importlib.resources.files("diffvis_jax.route") / "presets" / f"{name}.yaml"
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def make_provider(
    name: str, settings: ProviderSettings, base: Path = Path(), salt: str | None = None
) -> Provider:
    """The client of an engine.

    `base`: what the path of its key is relative to; `salt`: digest of the tenant.

    Raises:
      ConfigError: its key is not there, or can be read by others.
      ImportError: the extra `providers` is not installed.
    """
    common: dict[str, Any] = {
        "key": _key(name, settings, base),
        "trusted_hosts": settings.trusted_hosts,
        "remote": settings.remote,
        "timeout_s": settings.timeout_s,
    }
    address = (name, settings.base_url, settings.model)
    if settings.kind == "ollama":
        return OllamaNative(*address, context=settings.context, **common)
    if settings.kind == "vllm_tokens":
        return VLLMTokens(*address, layout=settings.layout, salt=salt, **common)
    return OpenAILike(*address, dialect=settings.dialect, salt=salt, **common)


def _key(name: str, settings: ProviderSettings, base: Path) -> str | None:
    if (variable := settings.api_key_env) is not None:
        if not (key := os.environ.get(variable)):
            raise ConfigError(f"{name}: the environment has no {variable} (api_key_env)")
        return key
    if settings.api_key_file is None:
        return None
    file = base / settings.api_key_file
    try:
        if stat.S_IMODE(file.stat().st_mode) & 0o077:
            raise ConfigError(f"{name}: others can read {file}: chmod 600 it")
        return file.read_text(encoding="utf-8").strip()
    except OSError as error:
        raise ConfigError(f"{name}: {file} cannot be read ({error.strerror})") from None
