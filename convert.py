#!/usr/bin/env python3
"""As `diffvis convert`."""

import sys

from diffvis_jax.cli.convert import main

if __name__ == "__main__":
    sys.exit(main())
