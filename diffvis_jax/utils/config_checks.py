"""What the configs of all towers are checked for."""

import numbers
from typing import Any

from diffvis_jax.errors import ConfigError


def require_positive(config: Any, *names: str) -> None:
    """Checks that fields hold positive whole numbers, or tuples of them.

    Raises:
      ConfigError: one does not.
    """
    for name in names:
        value = getattr(config, name)
        for n in value if isinstance(value, tuple) else (value,):
            if not isinstance(n, numbers.Integral) or isinstance(n, bool) or n < 1:
                raise ConfigError(f"{name} must be a positive whole number, got {value!r}")
