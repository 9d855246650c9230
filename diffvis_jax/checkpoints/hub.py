"""Downloads a checkpoint named `hf:REPO[@REVISION]`."""

from pathlib import Path

from diffvis_jax.errors import CheckpointError

_BESIDE = ["*.json", "*.txt", "*.model", "*.jinja", "LICENSE*"]


def download(name: str) -> tuple[Path, str]:
    """Fetches weights, configs and tokenizer through huggingface_hub's cache.

    Returns:
      The directory, and the commit that was fetched.

    Raises:
      CheckpointError: huggingface_hub is not installed, or the download failed.
    """
    repo, _, revision = name.removeprefix("hf:").partition("@")
    if not repo:
        raise CheckpointError(f"{name}: expected hf:REPO or hf:REPO@REVISION")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise CheckpointError(
            f'{name}: downloading needs huggingface_hub: pip install "diffvis_jax[hub]"'
        ) from None
    directory = Path()
    try:
        # Repositories often hold the same weights in both formats: take one.
        for weights in (["*.safetensors"], ["*.bin", "*.pt", "*.pth"]):
            fetched = snapshot_download(
                repo, revision=revision or None, allow_patterns=weights + _BESIDE
            )
            directory = Path(fetched)
            if any(p for pattern in weights for p in directory.glob(pattern)):
                return directory, directory.name  # snapshots are named after their commit
    except CheckpointError:
        raise
    except Exception as error:
        # Its many errors share no base class; the first line says which it was.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise CheckpointError(f"{name}: {reason}") from None
    raise CheckpointError(f"{name}: no weights in it that can be converted")
