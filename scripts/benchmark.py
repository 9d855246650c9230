#!/usr/bin/env python3
"""As `diffvis benchmark`."""

import sys

from diffvis_jax.cli.benchmark import main

if __name__ == "__main__":
    sys.exit(main())
