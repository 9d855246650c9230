#!/usr/bin/env python3
"""As `diffvis stats`."""

import sys

from diffvis_jax.cli.stats import main

if __name__ == "__main__":
    sys.exit(main())
