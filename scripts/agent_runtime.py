#!/usr/bin/env python3
"""As `diffvis runtime`."""

import sys

from diffvis_jax.cli.runtime import main

if __name__ == "__main__":
    sys.exit(main())
