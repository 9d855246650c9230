#!/usr/bin/env python3
"""As `diffvis serve`."""

import sys

from diffvis_jax.cli.serve import main

if __name__ == "__main__":
    sys.exit(main())
