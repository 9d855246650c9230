#!/usr/bin/env python3
"""As `diffvis calibrate`."""

import sys

from diffvis_jax.cli.calibrate import main

if __name__ == "__main__":
    sys.exit(main())
