#!/usr/bin/env python3
"""As `diffvis compare`."""

import sys

from diffvis_jax.cli.compare import main

if __name__ == "__main__":
    sys.exit(main())
