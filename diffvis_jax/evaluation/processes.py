"""Several processes, on one host or many, coordinated by `jax.distributed` only.

Each process advances its own streams on its own devices and writes its own file of results. The
processes compare what they are about to do, and wait for one another at the end.
"""

import contextlib
import hashlib
import os
from collections.abc import Iterator

import jax
import numpy as np

from diffvis_jax.errors import ConfigError, DiffvisError


class ProcessLost(DiffvisError, RuntimeError):
    """Another process of the run is gone; what was written is still there."""


def join(coordinator: str | None, processes: int | None, process: int | None) -> None:
    """Joins the other processes of the run; before anything else is done with JAX.

    Args:
      coordinator: "host:port" of process 0, or "auto" on a cluster that JAX knows (Slurm, Cloud
        TPU, ..); None = this process is alone.
      processes: how many there are.
      process: which of them this is, from 0.

    Raises:
      ConfigError: numbers that do not fit together.
    """
    if coordinator is None:
        if processes not in (None, 1) or process not in (None, 0):
            raise ConfigError(f"{processes} processes need a coordinator host:port")
        return
    known = coordinator == "auto"
    if not known and (processes is None or process is None or not 0 <= process < processes):
        raise ConfigError(
            f"a coordinator needs the number of processes and which this is, from 0: "
            f"got {processes} and {process}"
        )
    # The CPU's collectives; other devices bring their own.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    if known:
        jax.distributed.initialize()
    else:
        jax.distributed.initialize(coordinator, processes, process)


def agree(what: str) -> None:
    """Compares a text between all processes.

    Raises:
      ConfigError: their texts differ.
      ProcessLost: one of them does not answer any more.
    """
    if jax.process_count() == 1:
        return
    from jax.experimental.multihost_utils import process_allgather

    digest = np.frombuffer(hashlib.sha256(what.encode()).digest()[:16], np.int32)
    with _all_there():
        digests = np.asarray(process_allgather(digest)).reshape(jax.process_count(), -1)
    if other := [p for p in range(len(digests)) if (digests[p] != digests[0]).any()]:
        raise ConfigError(
            f"processes {other} were started with other arguments, data or weights than process 0"
        )


def wait_for_all(name: str) -> None:
    """Returns when all processes have come here.

    Raises:
      ProcessLost: one of them will not.
    """
    if jax.process_count() > 1:
        from jax.experimental.multihost_utils import sync_global_devices

        with _all_there():
            sync_global_devices(name)


@contextlib.contextmanager
def _all_there() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        raise ProcessLost(
            "another process of this run was lost; what was written is kept: start all of them "
            f"again, with the same command ({str(error)[:200]})"
        ) from error


def local_streams(count: int) -> range:
    """The numbers of the streams that this process advances, of `count`."""
    return range(jax.process_index(), count, jax.process_count())


def machine() -> dict[str, str | int]:
    """Where this process runs."""
    device = jax.local_devices()[0]
    return {
        "device": device.device_kind,
        "platform": device.platform,
        "devices": jax.local_device_count(),
        "processes": jax.process_count(),
        "cpu_cores": os.cpu_count() or 0,
    }
