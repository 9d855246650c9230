"""Reading PyTorch checkpoints, converting them, saving and loading ours."""
