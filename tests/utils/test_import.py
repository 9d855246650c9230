"""What importing the library costs."""

import subprocess
import sys


def test_importing_the_library_imports_nothing_that_few_need():
    slow = ("scipy", "matplotlib", "rich.progress", "PIL.Image", "tokenizers", "pyarrow", "torch")
    code = f"import sys, diffvis_jax; print([name for name in {slow} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
