"""`python -m diffvis_jax` is `diffvis`."""

import sys

from diffvis_jax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
