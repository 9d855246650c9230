"""Parity is of what users have: programs that are compiled as they are for them."""

import jax

jax.config.update("jax_disable_most_optimizations", False)
