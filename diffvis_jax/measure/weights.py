"""What other weights of one tower (quantised ones) change in its tokens, and in those of a stream.

F frames, H x W pixels, N tokens, D token width.
"""

import dataclasses
from typing import Any

import jax
import numpy as np

from diffvis_jax.core.cache import init_cache
from diffvis_jax.core.policy import Policy
from diffvis_jax.core.report import FULL
from diffvis_jax.core.step import jit_encode, make_step
from diffvis_jax.errors import FrameError
from diffvis_jax.measure.missed import TINY, Missed, changed_tokens, missed_at, missed_tails
from diffvis_jax.metrics import tails
from diffvis_jax.towers import build, with_size
from diffvis_jax.towers.params import Params

Tails = dict[str, float | None]


@dataclasses.dataclass(frozen=True)
class WeightsCompared:
    """Tokens with some weights (Q) against those with the weights they came from (T).

    All are `metrics.tails` of shares: over the frames, or over the frames whose pixels changed.

    Attributes:
      token_error: |Q - T| / |T|.
      change_error: |(Q1 - Q0) - (T1 - T0)| / |T1 - T0|, of consecutive full encodes: how well a
        change survives. 0 = as it was, 1 = as good as not seen. Without tiny changes.
      missed_changed: missed change at changed tokens of a stream with Q, against full encodes with
        Q. Without tiny changes.
      jitter: |(Q1 - Q0) - (T1 - T0)| / |T1| at the tokens whose own pixels did not change, of
        consecutive full encodes: how much Q moves them otherwise than T does. Of the frames that
        the stream did not encode in full.
      jitter_stream: the same with the stream's tokens in the place of Q's full encodes.
    """

    token_error: Tails
    change_error: Tails
    missed_changed: Tails
    jitter: Tails
    jitter_stream: Tails


def compare_weights(
    config: Any,
    reference: Params,
    params: Params,
    frames: np.ndarray,
    policy: Policy | None = None,
) -> WeightsCompared:
    """Encodes frames with both weights in full, and with the second as a stream.

    Args:
      config: of the tower, the same for both.
      reference: parameters T.
      params: parameters Q.
      frames: `uint8 [F, H, W, 3]`, consecutive.
      policy: of the stream; None = `Policy()`.

    Raises:
      FrameError: no frames, or frames of another shape or dtype.
    """
    frames = np.asarray(frames)
    if frames.ndim != 4 or frames.dtype != np.uint8 or 0 in frames.shape:
        raise FrameError(f"frames must be uint8 [F, H, W, 3], got {frames.dtype} {frames.shape}")
    policy = Policy() if policy is None else policy
    config = with_size(config, frames.shape[1:3])
    tower, step = build(config), make_step(config)
    cache = init_cache(config)
    before: tuple[np.ndarray, ...] = ()
    errors, changes, missed = [], [], []
    jitter: list[tuple[float | None, float | None]] = []
    for index in range(len(frames)):
        frame = frames[index : index + 1]
        tokens, cache, done = step(params, cache, frame, policy)
        full, theirs = (jit_encode(each, frame, config=config) for each in (reference, params))
        t, q, s = (np.asarray(x[0]) for x in jax.device_get((full, theirs, tokens)))
        errors.append(_share(q - t, t))
        if before:
            at = np.asarray(changed_tokens(tower, frames[index - 1 : index], frame)[0])
            if at.any():
                t0, q0, s0 = before
                missed.append(missed_at(at, s, q, q0))
                changes.append((_share((q - q0) - (t - t0), t - t0), missed_at(at, t0, t, t0)))
                if int(done.path[0]) != FULL:
                    full_moved, stream_moved = (
                        _share(((x - x0) - (t - t0))[~at], t[~at]) for x, x0 in ((q, q0), (s, s0))
                    )
                    jitter.append((full_moved, stream_moved))
        before = t, q, s
    return WeightsCompared(
        token_error=tails(errors),
        change_error=tails(error for error, true in changes if not _tiny(true)),
        missed_changed=missed_tails(missed)["missed_changed"],
        jitter=tails(full for full, _ in jitter),
        jitter_stream=tails(stream for _, stream in jitter),
    )


def _share(part: np.ndarray, whole: np.ndarray) -> float | None:
    norm = float(np.linalg.norm(whole))
    return float(np.linalg.norm(part)) / norm if norm else None


def _tiny(true: Missed) -> bool:
    return true.moved is None or true.moved < TINY
