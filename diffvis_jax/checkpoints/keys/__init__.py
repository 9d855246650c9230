"""Tables from PyTorch names to this library's."""
