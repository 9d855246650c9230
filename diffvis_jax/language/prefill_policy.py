"""What a prefill may leave out, and what it did."""

import dataclasses
from typing import Any

import flax.struct
import jax
import numpy as np

from diffvis_jax.utils.validation import checked, unchecked


@jax.tree_util.register_pytree_with_keys_class
@dataclasses.dataclass(frozen=True)
class PrefillPolicy:
    """What a prefill may leave out. All traced: one compilation serves all policies.

    Attributes:
      bounded: whether unchanged image tokens after a changed one are kept; False = exact.
      tolerance: how far an embedding may be from its reference, its largest difference relative to
        the reference's RMS, and still count as unchanged; 0 = the same bits.
      refresh_every: after so many steps that left something out, everything that may be wrong is
        recomputed; 0 = never.
    """

    bounded: Any = False
    tolerance: Any = 0.0
    refresh_every: Any = 0

    def __post_init__(self):
        for name, dtype in (
            ("bounded", np.bool_),
            ("tolerance", np.float32),
            ("refresh_every", np.int32),
        ):
            object.__setattr__(self, name, checked(name, getattr(self, name), dtype))

    def tree_flatten_with_keys(self):
        names = [field.name for field in dataclasses.fields(self)]
        return [(jax.tree_util.GetAttrKey(name), getattr(self, name)) for name in names], names

    @classmethod
    def tree_unflatten(cls, names, leaves):
        return unchecked(cls, dict(zip(names, leaves, strict=True)))

    @classmethod
    def exact(cls) -> "PrefillPolicy":
        """The default: equal to a fresh prefill, to rounding."""
        return cls()

    @classmethod
    def approximate(cls, refresh_every: int = 10) -> "PrefillPolicy":
        """Bounded, and exact again at least every so many steps."""
        return cls(bounded=True, refresh_every=refresh_every)


@flax.struct.dataclass(kw_only=True)
class PrefillReport:
    """What a prefill did, one entry per stream.

    Attributes:
      prefilled: positions recomputed.
      total: positions of the prompt.
      changed: positions whose embedding differs from its reference.
      first: the first of them; `total` if there is none.
      refreshed: whether this was a refresh.
    """

    prefilled: jax.Array  # int32 [B]
    total: jax.Array  # int32 [B]
    changed: jax.Array  # int32 [B]
    first: jax.Array  # int32 [B]
    refreshed: jax.Array  # bool [B]


def describe_prefill(report: PrefillReport) -> list[dict[str, Any]]:
    """The report as plain Python, one dict per stream; `path` is reuse, partial or full."""
    host = jax.tree.map(np.asarray, report)
    found = []
    for b in range(len(host.total)):
        done, total = int(host.prefilled[b]), int(host.total[b])
        found.append(
            {
                "path": "full" if done == total else "partial" if done else "reuse",
                "prefilled": done,
                "total": total,
                "changed": int(host.changed[b]),
                "first": int(host.first[b]),
                "refreshed": bool(host.refreshed[b]),
            }
        )
    return found
