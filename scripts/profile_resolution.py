#!/usr/bin/env python3
"""As `diffvis profile`."""

import sys

from diffvis_jax.cli.profile import main

if __name__ == "__main__":
    sys.exit(main())
