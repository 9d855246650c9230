"""Several views of one agent: cameras or screens by name, each of them a stream."""

from diffvis_jax.views.combine import (
    aggregate,
    concatenate,
    init_view_attention,
    pool,
    shown_tokens,
    to_prefix,
)
from diffvis_jax.views.drop_study import drop_study, study_table
from diffvis_jax.views.encoder import ViewEncoder, order_views
from diffvis_jax.views.formats import from_lerobot, from_openpi
from diffvis_jax.views.view_set import ViewSet

__all__ = [
    "ViewEncoder",
    "ViewSet",
    "aggregate",
    "concatenate",
    "drop_study",
    "from_lerobot",
    "from_openpi",
    "init_view_attention",
    "order_views",
    "pool",
    "shown_tokens",
    "study_table",
    "to_prefix",
]
