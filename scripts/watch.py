#!/usr/bin/env python3
"""As `diffvis watch`."""

import sys

from diffvis_jax.cli.watch import main

if __name__ == "__main__":
    sys.exit(main())
