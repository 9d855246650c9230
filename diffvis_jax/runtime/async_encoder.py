"""A model's differential steps in a worker beside the loop.

B streams (the views of one agent), H x W pixels of a frame, N tokens, D token width.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from diffvis_jax.core.cache import Cache, init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import combine, describe
from diffvis_jax.core.step import check_frames, make_step
from diffvis_jax.errors import ConfigError, FrameError
from diffvis_jax.images.frame_stream import FrameStream
from diffvis_jax.images.preprocess import checked_size
from diffvis_jax.model import Model
from diffvis_jax.runtime.clock import Clock
from diffvis_jax.runtime.encoded import Outcome, Publish
from diffvis_jax.runtime.executor import Executor
from diffvis_jax.runtime.worker import FrameWorker
from diffvis_jax.towers import VisionConfig, with_size
from diffvis_jax.utils.compile_time import watch_compilation
from diffvis_jax.utils.validation import concrete

Summarise = Callable[[jax.Array, Cache], Any]
_ONE = ""  # the name of the only image, where there are no views


class Views(Protocol):
    """Several named images of one agent as one batch."""

    def stack(self, images: Mapping[str, Any], model: Any, /) -> tuple[Any, Any]:
        """Frames `uint8 [B, H, W, 3]`, and which of them there are: B bools, of whatever shape."""
        ...

    def split(self, x: Any, /) -> dict[str, Any]:
        """What belongs to each view, of arrays `[B, ..]`."""
        ...


class AsyncEncoder(FrameWorker):
    """Encodes the newest frame in a worker of its own, while a loop goes on.

        with dv.AsyncEncoder(model) as encoder:
            encoder.start(image)           # compiles, encodes in full
            encoder.offer(image)           # does not wait
            features = encoder.latest()    # does not wait; features.captured tells their age

    The worker alone has the cache. It takes the newest observation that was offered (older ones are
    superseded, never queued), makes frames of it, runs the step, summarises and copies the result
    to the host. A step that runs is never broken off. A step that raises loses its cache: then
    every call raises an `EncoderError` with that error as its cause, until `reset`.

    Images are what `diffvis_jax.preprocess` takes: a PIL image, `uint8 [H, W, 3]`, a path, an mss
    ScreenShot; or ready frames `uint8 [B, H, W, 3]`; or a dict of names to images, whose frames are
    of one size and become one batch in the order of the first dict. All later ones have the size
    and the names of the first; another size is a new episode (`reset`, `start`).
    """

    def __init__(
        self,
        model: Model,
        policy: Policy | None = None,
        *,
        views: Views | None = None,
        summarise: Summarise | None = None,
        settle: bool = True,
        publish: Publish = "always",
        clock: Clock | None = None,
        executor: Executor | None = None,
    ):
        """Args:
          model: the tower.
          policy: what may be left out; None = `Policy()`.
          views: makes a batch of a dict of images in which views may be missing; None = all views
            of a dict are there each time.
          summarise: (tokens `[B, N, D]`, cache) -> what the loop wants to have: a pytree of arrays
            with the views first, or lists with an entry for each. Run by the worker; None = `pool`.
          settle: whether the worker goes on with the last frame while nothing new comes and
            something of it is pending.
          publish: "always"; or "settled": results with nothing pending, for consumers that must not
            see a mixture of two frames. Their age grows meanwhile.
          clock: None = the machine's monotonic one.
          executor: of one worker, shut down by `close`; None = a thread.

        Raises:
          ConfigError: publish="settled" without settling.
        """
        policy = Policy() if policy is None else policy
        share = concrete(policy.settle)
        if publish == "settled" and share is not None and not (share > 0).all():
            raise ConfigError("publish='settled' needs a policy that settles: its settle is 0")
        steps = ModelSteps(model, policy, views, pool if summarise is None else summarise)
        super().__init__(steps, settle=settle, publish=publish, clock=clock, executor=executor)


def pool(tokens: jax.Array, cache: Cache) -> jax.Array:
    """The mean of the tokens, `[B, D]`."""
    return _mean(tokens)


@jax.jit
def _mean(tokens: jax.Array) -> jax.Array:
    return tokens.mean(1)


class ModelSteps:
    """Images in, features on the host out; see `runtime.encoded.Steps`."""

    def __init__(self, model: Model, policy: Policy, views: Views | None, summarise: Summarise):
        self._model, self._policy = model, policy
        self._given, self._views, self._summarise = views, views, summarise
        self._sizes: dict[str, tuple[int, ...]] = {}  # of the frames of the first images
        self._warm: tuple[int, ...] = ()  # the shape that everything is compiled for
        self._config: VisionConfig = model.config
        self._stream = FrameStream(model.config)
        self._step = make_step(model.config)
        self._cache: Cache | None = None
        self._last: tuple[Any, np.ndarray, Any] | None = None  # images, their frames, and `active`

    # ---- by any thread --------------------------------------------------------------------------

    def check(self, images: Any) -> None:
        for name, size in self._sizes_of(images).items():
            first = self._sizes.get(name)
            if first is not None and size != first:
                raise FrameError(
                    f"{_called(name)}: becomes a frame of {_text(size)} px (height x width), at "
                    f"the start it was {_text(first)}: reset() and start() with another size"
                )
        if self._given is not None:
            return  # any of the views may be missing
        names, first_names = _names(images), tuple(self._sizes)
        if set(names) != set(first_names):
            raise FrameError(
                f"the images are {_list(names)}, at the start they were {_list(first_names)}"
            )

    def keep(self, images: Any, owned: bool) -> Any:
        if owned:
            return images
        if isinstance(images, Mapping):
            return {name: _copied(image) for name, image in images.items()}
        return _copied(images)

    def _sizes_of(self, images: Any) -> dict[str, tuple[int, ...]]:
        if isinstance(images, Mapping):
            if not images:
                raise FrameError("the dict of images is empty: give at least one view")
            return {
                name: self._size_of(image, _called(name))
                for name, image in images.items()
                if image is not None or self._given is None  # else that view is missing
            }
        if self._given is not None:
            raise FrameError(f"images must be a dict by view, got {type(images).__name__}")
        if getattr(images, "ndim", 0) == 4:
            check_frames(images)
            return {_ONE: images.shape[1:3] if images.shape[0] == 1 else images.shape[:3]}
        return {_ONE: self._size_of(images, "image")}

    def _size_of(self, image: Any, name: str) -> tuple[int, int]:
        if isinstance(image, jax.Array):  # of one on a device only its shape is looked at
            image = np.broadcast_to(np.zeros((), image.dtype), image.shape)
        return checked_size(image, self._model.config, name)

    # ---- by the worker --------------------------------------------------------------------------

    def warm(self, images: Any) -> None:
        self._sizes = self._sizes_of(images)
        self._stream = FrameStream(self._model.config)
        if self._given is None:
            named = isinstance(images, Mapping)
            self._views = _Named(self._sizes, self._model) if named else None
        self._last = self._cache = None
        frames, active = self._frames(images)
        if frames.shape == self._warm:
            return
        self._config = with_size(self._model.config, (frames.shape[1], frames.shape[2]))
        self._step = make_step(self._config)
        poked = frames.copy()
        poked[:, 0, 0] ^= 255
        # What a partial and an idle step do only at their first time is not the loop's.
        for number, each in enumerate((frames, frames, poked, frames)):
            self._encode(each, active, fresh=number == 0)
        self._last = self._cache = None
        self._warm = frames.shape

    def step(self, images: Any, fresh: bool) -> Outcome:
        with watch_compilation(own_thread=True) as compiled:
            if images is not None:
                frames, active = self._frames(images)
                if frames.shape != self._warm:
                    raise FrameError(
                        f"frames of {list(frames.shape)}, at the start they were {list(self._warm)}"
                    )
                self._last = images, frames, active
            assert self._last is not None
            outcome = self._encode(*self._last[1:], fresh=fresh)
        return outcome._replace(compiled=compiled.programs)

    def _encode(self, frames: np.ndarray, active: Any, fresh: bool) -> Outcome:
        # The cache is donated, and gone if the step fails while it runs.
        cache, self._cache = None if fresh else self._cache, None
        if cache is None:
            cache = init_cache(self._config, frames.shape[0], size=frames.shape[1:3])
        tokens, cache, report = self._step(
            self._model.params, cache, frames, self._policy, active=active
        )
        value = jax.tree.map(_on_host, self._summarise(tokens, cache))
        self._cache = jax.block_until_ready(cache)
        done = combine(describe(report))
        if self._views is not None:
            value = self._views.split(value)
        return Outcome(value, done["pending"], done["path"], done["recomputed"])

    def _frames(self, images: Any) -> tuple[np.ndarray, Any]:
        """Frames `uint8 [B, H, W, 3]`, and which are there."""
        if self._last is not None and _same(images, self._last[0]):
            return self._last[1:]  # on an idle screen resizing would cost more than the step
        if self._views is not None:
            frames, present = self._views.stack(images, self._model)
            present = None if present is None else np.asarray(present).reshape(-1)
        elif getattr(images, "ndim", 0) == 4:
            frames, present = images, None
        else:
            frames, present = self._stream(images), None
        check_frames(frames)
        return np.asarray(frames), present


class _Named:
    """A dict of images whose names never change."""

    def __init__(self, sizes: Mapping[str, tuple[int, ...]], model: Model):
        self._names = tuple(sizes)
        self._streams = {name: FrameStream(model.config) for name in sizes}
        first = sizes[self._names[0]]
        for name, size in sizes.items():
            if size != first:
                raise FrameError(
                    f"{_called(name)} becomes a frame of {_text(size)} px (height x width), "
                    f"{_called(self._names[0])} one of {_text(first)}: views of one batch have one "
                    "size"
                )

    def stack(self, images: Mapping[str, Any], model: Model) -> tuple[np.ndarray, None]:
        return np.concatenate([self._streams[name](images[name]) for name in self._names]), None

    def split(self, x: Any) -> dict[str, Any]:
        def of(number: int) -> Any:
            return jax.tree.map(lambda leaf: leaf[number], x, is_leaf=lambda y: type(y) is list)

        return {name: of(number) for number, name in enumerate(self._names)}


def _on_host(leaf: Any) -> Any:
    """A copy: the buffer itself may be one that the next step writes into."""
    return np.array(leaf) if isinstance(leaf, jax.Array) else leaf


def _copied(image: Any) -> Any:
    from PIL import Image

    if isinstance(image, Image.Image):
        # One that is not decoded yet is left to the worker: that takes longer than a tick.
        return image if getattr(image, "tile", None) else image.copy()
    if hasattr(image, "__array__") and not isinstance(image, jax.Array):
        return np.array(image)
    return image  # nobody writes into it


def _same(images: Any, last: Any) -> bool:
    """Whether these are the same pixels, as far as that can be told at once."""
    if isinstance(images, Mapping) and isinstance(last, Mapping):
        return images.keys() == last.keys() and all(_same(images[n], last[n]) for n in images)
    if isinstance(images, np.ndarray) and isinstance(last, np.ndarray):
        return np.array_equal(images, last)
    return False


def _names(images: Any) -> tuple[str, ...]:
    return tuple(images) if isinstance(images, Mapping) else (_ONE,)


def _called(name: str) -> str:
    return f"view {name!r}" if name != _ONE else "image"


def _list(names: Sequence[str]) -> str:
    return "one image" if tuple(names) == (_ONE,) else f"the views {', '.join(names)}"


def _text(size: tuple[int, ...]) -> str:
    return " x ".join(map(str, size))
