"""Fewer vision tokens: over time, over the screen, and in the language model.

Every method says which tokens become one (`Grouping`); `merge` alone makes one of them.
"""

from diffvis_jax.compress.history import (
    History,
    HistoryPolicy,
    HistoryReport,
    current_tokens,
    history_set,
    init_history,
    restart_history,
    tokens_at,
)
from diffvis_jax.compress.history_update import update_history
from diffvis_jax.compress.token_scale import TokenScale, fit_scale, whitened_error
from diffvis_jax.compress.token_set import Grouping, TokenSet, compose, merge, token_set, unmerge

__all__ = [
    "Grouping",
    "History",
    "HistoryPolicy",
    "HistoryReport",
    "TokenScale",
    "TokenSet",
    "compose",
    "current_tokens",
    "fit_scale",
    "history_set",
    "init_history",
    "merge",
    "restart_history",
    "token_set",
    "tokens_at",
    "unmerge",
    "update_history",
    "whitened_error",
]
