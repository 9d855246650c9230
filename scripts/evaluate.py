#!/usr/bin/env python3
"""As `diffvis evaluate`."""

import sys

from diffvis_jax.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
