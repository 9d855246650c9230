"""Views by name: from pictures to the frames of streams, and from streams back to views.

A agents, V views of each, H x W pixels of a frame. View v of agent a is stream number a * V + v.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffvis_jax.core.policy import Policy
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.geometry import ImageError
from diffvis_jax.images.preprocess import preprocess
from diffvis_jax.towers.registry import build, with_size

Images = Mapping[str, Any]
Size = tuple[int, int]


@dataclasses.dataclass(frozen=True)
class ViewSet:
    """The cameras or screens that an agent sees through, in an order that stays.

    Attributes:
      names: of the views.
      sizes: (height, width) of each view's frames in pixels, by name.

    Raises:
      ConfigError: no views, names that are empty or not unique, or not a size for each.
    """

    names: tuple[str, ...]
    sizes: Mapping[str, Size]

    def __post_init__(self):
        names = (self.names,) if isinstance(self.names, str) else tuple(self.names)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise ConfigError(f"names must be those of at least one view, got {self.names!r}")
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"a view has a name of its own; there are several {twice}")
        given = set(self.sizes) if isinstance(self.sizes, Mapping) else None
        if given != set(names):
            raise ConfigError(f"sizes must be those of {list(names)}, by name; got {self.sizes!r}")
        sizes = {name: _size(name, self.sizes[name]) for name in names}
        object.__setattr__(self, "names", names)
        object.__setattr__(self, "sizes", sizes)

    @classmethod
    def of(cls, images: Images, model: Any) -> "ViewSet":
        """The views of these pictures, as `stack` takes them, at the sizes of frames that the
        model makes of them.

        Args:
          images: one picture of each view, by name.
          model: a model, or the config of a tower.

        Raises:
          ImageError: a picture that is none; names the view.
        """
        config, found = _config(model), {}
        for name, image in images.items():
            try:
                found[name] = preprocess(image, config).shape[1:3]
            except ImageError as error:
                raise ImageError(f"view {name!r}: {error}") from None
        return cls(tuple(found), found)

    @property
    def groups(self) -> tuple["ViewSet", ...]:
        """The views of each size, which share a cache and a compilation."""
        by_size: dict[Size, list[str]] = {}
        for name in self.names:
            by_size.setdefault(self.sizes[name], []).append(name)
        return tuple(
            ViewSet(tuple(names), dict.fromkeys(names, size)) for size, names in by_size.items()
        )

    @property
    def size(self) -> Size:
        """(height, width) of all views.

        Raises:
          FrameError: they have several.
        """
        if len(found := set(self.sizes.values())) > 1:
            raise FrameError(
                f"views of several sizes, {sorted(found)} (height, width), share no call: take "
                "each of `groups` by itself, or a ViewEncoder"
            )
        return self.sizes[self.names[0]]

    def config(self, model: Any) -> Any:
        """The config of the tower at the size of the views.

        Raises:
          FrameError: views of several sizes.
          ConfigError: a size that the tower does not take.
        """
        return with_size(_config(model), self.size)

    def stack(
        self,
        images: Images,
        model: Any,
        *,
        present: Mapping[str, Any] | None = None,
        agents: int = 1,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The frames of all streams.

        Args:
          images: by name: a picture as `preprocess` takes it, or a frame `uint8 [H, W, 3]` of the
            view's size, which is taken as it is. Of several agents a list of A pictures, or an
            array `[A, H, W, 3]`. A view that is missing, or None, is absent.
          model: a model, or the config of a tower.
          present: whether a picture counts, by name: a bool, or `[A]`. None, and names left out:
            all pictures that are there do.
          agents: A.

        Returns:
          `uint8 [A * V, H, W, 3]`, black where a view is absent, and bool `[A, V]`, which are
          present.

        Raises:
          FrameError: an unknown name, views of several sizes, frames of another size, or a mask of
            another shape.
          ImageError: a picture that is none (floats, channels first); names the view.
        """
        present = {} if present is None else present
        self.check_names(images)
        self.check_names(present)
        config, size = self.config(model), self.size
        frames = np.zeros((agents, len(self.names), *size, 3), np.uint8)
        there = np.zeros(frames.shape[:2], bool)
        for v, name in enumerate(self.names):
            counts = _mask(name, present.get(name, True), agents)
            for a, image in enumerate(_of_agents(name, images.get(name), agents)):
                if image is not None and counts[a]:
                    frames[a, v] = _frame(name, image, config, size)
                    there[a, v] = True
        return frames.reshape(-1, *size, 3), there

    def split(self, x: Any) -> dict[str, Any]:
        """What belongs to each view: arrays `[A * V, ..]` of a pytree -> name -> `[A, ..]`.

        Raises:
          FrameError: a first axis that is no multiple of V.
        """
        count = len(self.names)

        def part(v: int, leaf: Any) -> Any:
            if not leaf.ndim or leaf.shape[0] % count:
                raise FrameError(
                    f"an array of {list(leaf.shape)} is not of {count} views: its first axis must "
                    "be that of the streams"
                )
            return leaf.reshape(-1, count, *leaf.shape[1:])[:, v]

        return {
            name: jax.tree.map(lambda leaf, v=v: part(v, leaf), x)
            for v, name in enumerate(self.names)
        }

    def join(self, by_name: Mapping[str, Any]) -> jax.Array:
        """`[A, ..]` of every view, by name -> `[A, V, ..]`.

        Raises:
          FrameError: not all views, others, or shapes that differ.
        """
        self.check_names(by_name)
        shapes = {name: np.shape(by_name[name]) for name in self.names if name in by_name}
        if len(shapes) < len(self.names) or len(set(shapes.values())) > 1:
            raise FrameError(f"arrays of one shape for {list(self.names)} are joined, got {shapes}")
        return jnp.stack([by_name[name] for name in self.names], 1)

    def policy(
        self,
        model: Any,
        policies: Mapping[str, Policy],
        default: Policy | None = None,
        *,
        agents: int = 1,
    ) -> Policy:
        """One policy of all streams, in which every view has its own numbers.

        Args:
          model: a model, or the config of a tower: whose margins a name means.
          policies: by name.
          default: of the other views; None = `Policy()`.
          agents: A.

        Raises:
          FrameError: an unknown name, or views of several sizes.
          ConfigError: policies of several metrics, or with numbers for each stream.
        """
        self.check_names(policies)
        tower = build(self.config(model))
        default = Policy() if default is None else default
        own = [policies.get(name, default) for name in self.names]
        if len(metrics := {policy.metric for policy in own}) > 1:
            raise ConfigError(f"views in one call are compared by one metric, got {metrics}")
        if any(any(policy.fields_by_stream().values()) for policy in own):
            raise ConfigError("a view's policy has one number of each kind, not one a stream")
        resolved = [policy.resolved(tower) for policy in own] * agents
        return jax.tree.map(lambda *numbers: np.stack(numbers), *resolved)

    def check_names(self, found: Mapping[str, Any]) -> None:
        """Raises a FrameError if any of these is no view."""
        if not isinstance(found, Mapping):
            raise FrameError(f"views come in a dict by their names, got {type(found).__name__}")
        if unknown := sorted(map(str, found.keys() - set(self.names))):
            raise FrameError(f"no views {unknown}: there are {list(self.names)}")


def _config(model: Any) -> Any:
    return getattr(model, "config", model)


def _size(name: str, size: Any) -> Size:
    sides = tuple(size) if isinstance(size, Sequence) else ()
    if len(sides) != 2 or not all(isinstance(n, int | np.integer) and n > 0 for n in sides):
        raise ConfigError(f"view {name!r}: a size is (height, width) in pixels, got {size!r}")
    return int(sides[0]), int(sides[1])


def _mask(name: str, mask: Any, agents: int) -> np.ndarray:
    """bool `[A]`."""
    mask = np.asarray(mask)
    if mask.dtype != bool or mask.shape not in ((), (agents,)):
        raise FrameError(
            f"present[{name!r}] must be bool, or bool [{agents}], got {mask.dtype} "
            f"{list(mask.shape)}"
        )
    return np.broadcast_to(mask, (agents,))


def _of_agents(name: str, images: Any, agents: int) -> Sequence[Any]:
    """One picture for each agent."""
    if images is None:
        return [None] * agents
    several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
    if not several and agents == 1:
        return [images]
    if not several or len(images) != agents:
        got = f"{len(images)}" if several else "one"
        raise FrameError(f"view {name!r}: {agents} agents need as many pictures, got {got}")
    return images


def _frame(name: str, image: Any, config: Any, size: Size) -> np.ndarray:
    """`uint8 [H, W, 3]`."""
    if isinstance(image, jax.Array):
        image = np.asarray(image)
    ready = isinstance(image, np.ndarray) and image.dtype == np.uint8
    if ready and image.shape == (*size, 3):
        return image
    try:
        frame = preprocess(image, config)[0]
    except ImageError as error:
        raise ImageError(f"view {name!r}: {error}") from None
    if frame.shape[:2] != size:
        raise FrameError(
            f"view {name!r}: this picture becomes a frame of {frame.shape[0]} x {frame.shape[1]} "
            f"px (height x width), the view's are {size[0]} x {size[1]} px: a view keeps its size "
            "(`ViewSet.of` finds it)"
        )
    return frame
