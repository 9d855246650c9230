"""The recording that comes with the library."""

from diffvis_jax.cli.models import PACKAGE

BUNDLED = PACKAGE / "session"
