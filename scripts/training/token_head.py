#!/usr/bin/env python3
"""Trains a grounding head that sees tokens alone, on a frozen tower.

    python scripts/training/token_head.py DATA TARGET --model screens-vit --steps 1500

The heads of the bundled weights see finer maps, too, and hardly notice what is done to tokens. This
one measures what is left of them: `benchmark_tokens.py --pages DATA/test --head TARGET`. DATA is
written by render_pages.py; TARGET becomes a weight directory, tower included.
"""

import argparse
import dataclasses
import itertools
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from loss import grounding_loss
from optimiser import optimiser
from score import answer, best_threshold, score
from screens import ahead, load_screens, random_crops, squares_of

import diffvis_jax as dv
from diffvis_jax.checkpoints.store import save
from diffvis_jax.checkpoints.writer import check_target
from diffvis_jax.cli.command_line import run_script, whole
from diffvis_jax.cli.models import find_model
from diffvis_jax.core.step import jit_encode
from diffvis_jax.grounding.head import GroundingHead, HeadConfig
from diffvis_jax.towers import build, with_size
from diffvis_jax.utils.progress import Progress


def train(model: dv.Model, head: HeadConfig, screens: list[Any], args: argparse.Namespace) -> Any:
    """The head's parameters, averaged over the last steps."""
    tower = with_size(model.config, (args.side, args.side))
    tokens = jnp.zeros((1, build(tower).tokens, head.token_width))
    params = GroundingHead(head).init(jax.random.key(args.seed), tokens, ())["params"]
    rule = optimiser(args.rate, args.steps)

    @jax.jit
    def step(params: Any, average: Any, state: Any, tokens: jax.Array, batch: dict[str, Any]):
        def loss(params: Any):
            answers = GroundingHead(head).apply({"params": params}, tokens, ())
            return grounding_loss(head, answers, batch)  # type: ignore[arg-type]

        (_, parts), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: 0.99 * a + 0.01 * p, average, params)
        return params, average, state, parts["loss"]

    average, state = params, rule.init(params)
    batches = ahead(random_crops(screens, args.side, args.batch, head, args.seed))
    losses = []
    with Progress(args.steps, "steps") as progress:
        for batch in itertools.islice(batches, args.steps):
            tokens = jit_encode(model.params, jnp.asarray(batch.pop("pixels")), config=tower)
            assert isinstance(tokens, jax.Array)
            params, average, state, loss = step(params, average, state, tokens, batch)
            losses.append(float(loss))
            recent = losses[-100:]
            progress(f"loss {sum(recent) / len(recent):.3f}")
    return average


def run() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("data", type=Path, help="written by render_pages.py; holds train/, val/ and test/")
    add("target", type=Path, help="weight directory to write")
    add("--model", default="screens-vit", help="the tower (%(default)s)")
    add("--pages", type=whole(1, 10**6, "pages"), default=1200, help="to learn from (1200)")
    add("--side", type=int, default=512, help="pixels along the side of a crop (512)")
    add("--batch", type=whole(1, 1024, "crops"), default=8, help="crops of a step (8)")
    add("--steps", type=whole(1, 10**6, "steps"), default=1500, help="(1500)")
    add("--rate", type=float, default=2e-3, help="largest learning rate (2e-3)")
    add("--seed", type=int, default=0)
    add("--force", action="store_true", help="replace the directory")
    args = parser.parse_args()
    check_target(args.target.resolve(), force=args.force)
    model = dv.load(find_model(args.model), dtype="float32")
    tower = build(model.config)
    head = HeadConfig(
        token_width=tower.token_width, patch=tower.token, rows=tower.token // 8, columns=2
    )
    screens = {
        split: load_screens(args.data / split, head.kinds, most, model.config.preprocess)
        for split, most in (("train", args.pages), ("val", 60))
    }
    seen: Any = [square for page in screens["val"] for square in squares_of(page, tower.token)]
    params = {"tower": model.params, "head": train(model, head, screens["train"], args)}
    answers = answer(model.config, head, params, seen)
    head = dataclasses.replace(head, threshold=best_threshold(head, answers, seen))
    found = score(model.config, head, params, seen)
    print({key: round(found[key], 4) for key in ("f1", "precision", "recall", "click")})
    save(
        args.target,
        config=model.config,
        params=model.params,
        grounding_config=head,
        grounding_params=params["head"],
        force=args.force,
    )
    return 0


if __name__ == "__main__":
    sys.exit(run_script(run))
