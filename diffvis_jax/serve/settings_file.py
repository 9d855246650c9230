"""Where a server's settings come from, and what is wrong with them.

Command line > environment (`DIFFVIS_SERVE__PORT`) > file > preset > default. All errors are told at
once.
"""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic import ValidationError

from diffvis_jax.errors import ConfigError
from diffvis_jax.route.settings import PRESETS as ROUTING
from diffvis_jax.route.settings import preset as routing_preset
from diffvis_jax.serve.settings import ServeSettings, Settings

PRESETS = Path(__file__).with_name("presets")
_ENVIRONMENT = "DIFFVIS_"

Values = dict[str, Any]  # by path, such as "serve.port"
Sources = dict[str, str]


def load_settings(
    file: str | None = None,
    given: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> tuple[Settings, Sources]:
    """The settings, and for each that is not as by default where it comes from.

    Args:
      file: a YAML file, or the name of a preset.
      given: by the command line, by path.
      environment: None = the process's own.

    Raises:
      ConfigError: with everything that is wrong.
    """
    environment = os.environ if environment is None else environment
    layers: list[tuple[str, Values, dict[str, int]]] = []
    preset = None
    if file is not None and not Path(file).exists() and file in _presets():
        preset = file
    elif file is not None:
        values, lines = read_yaml(Path(file))
        _resolve_paths(values, Path(file).parent)
        layers.append((file, values, lines))
        preset = values.get("preset")
    layers.append(("environment", _from_environment(environment), {}))
    layers.append(("command line", dict(given or {}), {}))
    preset = next((v["preset"] for _, v, _ in reversed(layers) if "preset" in v), preset)
    if isinstance(preset, str):
        if preset not in _presets():
            raise ConfigError(
                f"preset: no preset {preset!r}: there are {', '.join(_presets())}"
                f"{_nearest(preset, _presets())}"
            )
        values, lines = {"routing": routing_preset(preset)} if preset in ROUTING else {}, {}
        if preset not in ROUTING:
            values, lines = read_yaml(PRESETS / f"{preset}.yaml")
        layers.insert(0, (f"preset {preset}", {**values, "preset": preset}, lines))
    return _validated(layers)


def _validated(
    layers: Sequence[tuple[str, Values, dict[str, int]]],
) -> tuple[Settings, Sources]:
    tree: dict[str, Any] = {}
    sources, lines = {}, {}
    for source, values, numbers in layers:
        for path, value in values.items():
            _put(tree, path, value)
            sources[path] = source
            lines[path] = numbers.get(path)
    try:
        return Settings.model_validate(tree), sources
    except ValidationError as error:
        found = error.errors(include_url=False)
    told = []
    for each in found:
        path = ".".join(str(part) for part in each["loc"])
        of = next((p for p in (path, path.rpartition(".")[0]) if p in sources), None)
        line = lines.get(of) if of else None
        at = f" ({sources[of]}{f', line {line}' if line else ''})" if of else ""
        if each["type"] == "extra_forbidden":
            names = _names(Settings, path.split(".")[:-1])
            what = f"there is no such setting{_nearest(path.rpartition('.')[2], names)}"
        elif each["type"] == "missing":
            what = "must be given"
        elif isinstance(each["input"], Mapping) or "key" in path:  # it may hold a key
            what = each["msg"]
        else:
            what = f"{each['msg']}, got {each['input']!r}"
        told.append(f"{path}{at}: {what}")
    raise ConfigError("wrong settings:\n  " + "\n  ".join(told))


def _names(model: Any, sections: Sequence[str]) -> list[str]:
    """What may stand in a section; nothing where names are free."""
    for section in sections:
        field = getattr(model, "model_fields", {}).get(section)
        free = get_args(model)[-1:] or (None,)  # of a dict: the sections of its values
        model = free[0] if field is None else field.annotation
    return list(getattr(model, "model_fields", {}))


def _nearest(name: str, names: Sequence[str]) -> str:
    near = difflib.get_close_matches(name, names, 1)
    return f"; did you mean {near[0]}?" if near else ""


def _put(tree: dict[str, Any], path: str, value: Any) -> None:
    *sections, name = path.split(".")
    for section in sections:
        inner = tree.setdefault(section, {})
        if not isinstance(inner, dict):
            return  # the section itself is wrong, and told to be
        tree = inner
    tree[name] = value


def _presets() -> list[str]:
    return sorted([*(file.stem for file in PRESETS.glob("*.yaml")), *ROUTING])


def _from_environment(environment: Mapping[str, str]) -> Values:
    sections = {name.upper() for name in Settings.model_fields}
    found = {}
    for name, value in environment.items():
        section, _, rest = name.removeprefix(_ENVIRONMENT).partition("__")
        if name.startswith(_ENVIRONMENT) and rest and section in sections:
            found[f"{section}.{rest}".lower().replace("__", ".")] = value
    return as_yaml(found)


def as_yaml(texts: Mapping[str, Any]) -> Values:
    """Texts of the environment and the command line are what they would be in a file."""
    found = {}
    for path, text in texts.items():
        try:
            found[path] = yaml.safe_load(text) if isinstance(text, str) else text
        except yaml.YAMLError:
            raise ConfigError(f"{path}: no YAML: {text!r}") from None
    return found


def _resolve_paths(values: Values, folder: Path) -> None:
    """Paths in a file are relative to it."""
    for path, text in values.items():
        named = path.endswith((".api_key_file", ".file")) and text != ":memory:"
        if isinstance(text, str) and (named or (path == "model.path" and text[:3] != "hf:")):
            place = folder / Path(text).expanduser()
            if path != "model.path" or place.exists():
                values[path] = str(place)


def read_yaml(file: Path) -> tuple[Values, dict[str, int]]:
    """The values of a file by path, and the line of each.

    Raises:
      ConfigError: it cannot be read, is no YAML, or has a name twice.
    """
    values, lines = {}, {}
    try:
        loader = yaml.SafeLoader(file.read_text(encoding="utf-8"))
        node = loader.get_single_node()
        for path, value, line in _walk(loader, node, "") if node is not None else ():
            if path in values:
                raise ConfigError(f"{file}, line {line}: {path} stands there twice")
            values[path], lines[path] = value, line
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{file}: {' '.join(str(error).split())}") from None
    return values, lines


def _walk(loader: yaml.SafeLoader, node: Any, prefix: str) -> Iterator[tuple[str, Any, int]]:
    if not isinstance(node, yaml.MappingNode):
        raise yaml.YAMLError("expected settings by their names")
    for key, inner in node.value:
        path = f"{prefix}{key.value}"
        # The names of titles are patterns, which have dots.
        if isinstance(inner, yaml.MappingNode) and inner.value and key.value != "titles":
            yield from _walk(loader, inner, f"{path}.")
        else:
            yield path, loader.construct_object(inner, deep=True), key.start_mark.line + 1


def show_settings(settings: Settings, sources: Sources) -> str:
    """Every value with where it comes from; settings hold no secrets."""

    def lines(values: dict[str, Any], prefix: str, source: str) -> Iterator[str]:
        for name, value in values.items():
            path = f"{prefix}{name}"
            of = sources.get(path, source)  # or that of the section
            if isinstance(value, dict) and value and name != "titles":
                yield from lines(value, f"{path}.", of)
            else:
                yield f"{path}: {value!r}  # {of}"

    return "\n".join(lines(settings.model_dump(), "", "default"))


def read_keys(settings: ServeSettings, environment: Mapping[str, str] | None = None) -> list[str]:
    """The keys of clients; empty = none is needed.

    Raises:
      ConfigError: a file that others may read, or without keys; an address beyond this machine
        without keys.
    """
    environment = os.environ if environment is None else environment
    text = environment.get(settings.api_key_env, "")
    if settings.api_key_file is not None:
        file = Path(settings.api_key_file)
        try:
            if os.name == "posix" and file.stat().st_mode & 0o077:
                raise ConfigError(f"serve.api_key_file: others may read '{file}': chmod 600 it")
            text += "\n" + file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"serve.api_key_file: {error}") from None
        if not text.strip():
            raise ConfigError(f"serve.api_key_file: '{file}' holds no keys")
    keys = text.replace(",", "\n").split()
    if not keys and settings.host not in ("127.0.0.1", "::1", "localhost"):
        raise ConfigError(
            f"serve.host: {settings.host} is seen by other machines: give keys "
            f"({settings.api_key_env}, or serve.api_key_file)"
        )
    return keys
