#!/usr/bin/env python3
"""As `diffvis predict`."""

import sys

from diffvis_jax.cli.predict import main

if __name__ == "__main__":
    sys.exit(main())
