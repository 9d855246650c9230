"""What a run starts from: another run, or a weight directory."""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from architecture import Architecture, architecture_of
from grow import grow
from learning import Setup
from optimiser import optimiser_of
from runs import checkpoints, read_recipe, restore

import diffvis_jax as dv
from diffvis_jax.checkpoints.format import read_json
from diffvis_jax.checkpoints.store import load_grounding, load_vision


def started_state(setup: Setup, start: Path, anew: int | None = None) -> dict[str, Any]:
    """A first state with the averaged weights of another run, or with those of a weight directory,
    grown to this run's depth; with a seed `anew` but for what comes after stage 3.

    The batch norm that is folded into the weights of a directory left what follows a convolution
    with mean 0 and variance 1, so that what normalising it again changes is what one batch differs
    from others.
    """
    if not is_weights(start):
        recipe = read_recipe(start)
        other = architecture_of(recipe)
        newest, held = restore(start, Setup(other, optimiser_of(recipe)), best=False)
        average = held["average"]
        params = {**average, "tower": {**held["kept"], **average["tower"]}}
        print(f"started from step {newest} of {start}", flush=True)
    else:
        config, tower = load_vision(start, "float32")
        other = Architecture(config.depths) if isinstance(config, dv.FastViTHDConfig) else None
        if other is None or config != other.tower:
            raise ValueError(f"--start: {start} holds another tower than is trained here")
        params = {"tower": tower, "head": started_head(setup, start)}
        print(f"started from the weights in {start}", flush=True)
    heads = {  # a helper that what is started from does not have is a fresh one
        name: params[name] if name in params else setup.fresh_head(head, 0)
        for name, head in setup.architecture.heads.items()
    }
    tower = grow(params["tower"], other.depths, setup.architecture.depths)
    if anew is not None:
        tower = setup.architecture.renewed(tower, anew)
    return setup.state({"tower": tower, **heads})


def started_head(setup: Setup, directory: Path) -> dict[str, Any]:
    """The grounding head of a weight directory, in float32; one that does not see the finer maps
    goes on with them.

    Raises:
      ValueError: it is not the one that is trained here.
    """
    head, params = load_grounding(directory)
    own = dataclasses.replace(setup.head, threshold=head.threshold, dtype=head.dtype)
    coarser = dataclasses.replace(own, finest_width=0)
    if head not in (own, coarser, dataclasses.replace(coarser, detail_width=0)):
        raise ValueError(f"--start: {directory} holds another head, {head} and not {own}")
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return {**setup.fresh_head(setup.head, 0), **params}


def is_weights(start: Path) -> bool:
    """Whether this is a weight directory, not a run."""
    return (start / "manifest.json").exists()


def helped(start: Path | None, frozen: int) -> bool:
    """Whether a run that starts so has a helper: none is bundled, and what it helps must learn."""
    if frozen:
        return False
    if start is None:
        return True
    if is_weights(start) or not (start / "recipe.json").exists():
        return False
    return read_recipe(start).get("helped", True)


def check_start(start: Path) -> None:
    """Something to start from: a run of this script, or a weight directory.

    Raises:
      ValueError: neither.
    """
    if not is_weights(start) and not (start / "recipe.json").exists():
        raise ValueError(
            f"--start: {start} is neither a run of train.py (recipe.json) nor a weight directory "
            "(manifest.json)"
        )


def start_step(start: Path) -> int | None:
    """How many steps the weights that a run starts from had been trained for, where it is known."""
    if is_weights(start):
        return read_json(start / "manifest.json").get("step")
    with checkpoints(start) as manager:
        return manager.latest_step()
