#!/usr/bin/env python3
"""As `diffvis demo`."""

import sys

from diffvis_jax.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
