#!/usr/bin/env python3
"""Compiles the full encode or the step, also for an accelerator that is not there.

Prints compile seconds, loops, launches, memory, and how much of the cache is updated in place. It
needs no device: for a TPU the extra `tpu` (x86-64 Linux), for an H100 `jax[cuda12]` of the same
version (5.5 GB).
"""

import argparse
import dataclasses
import functools
import os
import re
import sys
import time

os.environ.setdefault("JAX_PLATFORMS", "cpu")
# What libtpu would else ask a machine with a TPU for.
os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")
os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
os.environ.setdefault("JAX_SKIP_CUDA_CONSTRAINTS_CHECK", "1")

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.extend import core
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import diffvis_jax as dv
from diffvis_jax.cli.command_line import run_script, sides
from diffvis_jax.core.tuning import CPU, GPU, TPU, Tuning
from diffvis_jax.towers import build
from diffvis_jax.towers.registry import ARCHITECTURES, VisionConfig, with_size

TPUS = ("v5e", "v6e", "v5p", "v4")
TARGETS = ("cpu", *TPUS, "h100")
OPERATIONS = ("while", "conditional", "fusion", "custom-call", "copy", "gather", "scatter")

# As XLA prints it on one.
H100 = """gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32
shared_memory_per_block: 49152 shared_memory_per_core: 233472 threads_per_core_limit: 2048
core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535
block_dim_limit_z: 65535 memory_bandwidth: 3352320000000 l2_cache_size: 52428800
clock_rate_ghz: 1.98 device_memory_size: 84978892800 shared_memory_per_block_optin: 232448
cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
registers_per_block_limit: 65536 } platform_name: "CUDA" dnn_version_info { major: 9 minor: 1 }
device_description_str: "NVIDIA H100 80GB HBM3" """


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What XLA made of a program.

    Attributes:
      seconds: that tracing, lowering and compiling took.
      loops: `while` loops of the program before XLA sees it, each as often as it is called.
      count: of each of `OPERATIONS`.
      in_place: bytes of arguments that results take over.
      cache: bytes of the cache.
      temporary: bytes beside arguments and results.
      code: bytes.
    """

    seconds: float
    loops: int
    count: dict[str, int]
    in_place: int
    cache: int
    temporary: int
    code: int


def device_of(target: str):
    """One device: this machine's, or of a topology that is described and not there.

    Raises:
      RuntimeError: its compiler is not installed.
    """
    if target == "cpu":
        return jax.devices("cpu")[0]
    if target == "h100":
        described = topologies.get_topology_desc(
            platform="cuda", topology_name="h100", topology="1x1x1", target_config=H100
        )
    else:
        shape = "2x2x1" if target in ("v4", "v5p") else "2x2"
        described = topologies.get_topology_desc(platform="tpu", topology_name=f"{target}:{shape}")
    return described.devices[0]


def tuning_for(target: str) -> Tuning:
    return {"cpu": CPU, "h100": GPU}.get(target, TPU)


def loops_of(jaxpr: core.Jaxpr) -> int:
    """`while` loops, those of inner programs too."""
    inner = sum(map(loops_of, core.subjaxprs(jaxpr)))
    return inner + sum(equation.primitive.name == "while" for equation in jaxpr.eqns)


def compiled(config: VisionConfig, what: str, target: str, batch: int = 1) -> Compiled:
    """Compiles `what`, "encode" or "step", of so many streams."""
    place = NamedSharding(Mesh([device_of(target)], ("x",)), PartitionSpec())

    def there(make):
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), jax.eval_shape(make)
        )

    params = there(lambda: dv.init_params(config))
    frames = there(lambda: jnp.zeros((batch, *build(config).frame, 3), jnp.uint8))
    cache = there(lambda: dv.init_cache(config, batch))
    begin = time.perf_counter()
    if what == "encode":
        traced = jax.jit(lambda p, f: dv.encode(p, f, config=config)).trace(params, frames)
    else:
        step = functools.partial(dv.encode_step, config=config, tuning=tuning_for(target))
        traced = jax.jit(step, donate_argnums=1).trace(params, cache, frames)
    program = traced.lower().compile()
    seconds = time.perf_counter() - begin
    text, memory = program.as_text(), program.memory_analysis()
    assert text is not None
    assert memory is not None
    return Compiled(
        seconds=seconds,
        loops=loops_of(traced.jaxpr.jaxpr),
        count={name: len(re.findall(rf" {name}[(]", text)) for name in OPERATIONS},
        in_place=memory.alias_size_in_bytes,
        cache=sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(cache)),
        temporary=memory.temp_size_in_bytes,
        code=memory.generated_code_size_in_bytes,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("target", choices=TARGETS)
    add("what", choices=("encode", "step"))
    add("--arch", choices=tuple(ARCHITECTURES), default="clip", help="the tower (%(default)s)")
    add("--size", type=sides, help="pixels along the side, or HEIGHTxWIDTH (as released)")
    add("--depths", type=int, nargs=5, help="blocks of each stage of FastViTHD (as released)")
    add("--layers", type=int, help="blocks of CLIP (as released)")
    add("--batch", type=int, default=1, help="streams (1)")
    add("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    args = parser.parse_args()
    return run_script(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Compiles what the arguments say, and prints three lines."""
    config = ARCHITECTURES[args.arch]
    wanted = {"layers": args.layers, "depths": args.depths}
    given = {name: value for name, value in wanted.items() if value is not None}
    if unknown := given.keys() - {field.name for field in dataclasses.fields(config)}:
        raise ValueError(f"--{min(unknown)}: a {args.arch} tower has none")
    if "depths" in given:
        given["depths"] = tuple(given["depths"])
    config = with_size(dataclasses.replace(config, dtype=args.dtype, **given), args.size)
    jax.config.update("jax_enable_compilation_cache", False)
    found = compiled(config, args.what, args.target, args.batch)
    print(f"{args.arch} {args.what} for {args.target}: compiled in {found.seconds:.0f} s")
    print(f"while loops as written {found.loops}; as compiled:", end=" ")
    print(", ".join(f"{name} {number}" for name, number in found.count.items()))
    print(
        f"in place {found.in_place / 1e6:.1f} MB of a cache of {found.cache / 1e6:.1f} MB, "
        f"temporary {found.temporary / 1e6:.1f} MB, code {found.code / 1e6:.1f} MB"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
