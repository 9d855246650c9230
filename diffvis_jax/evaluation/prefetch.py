"""Decoding ahead of the device: worker threads, bounded memory, the order kept."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from diffvis_jax.images.geometry import ImageError

Item = TypeVar("Item")
Value = TypeVar("Value")


def prefetch(
    items: Iterable[Item], load: Callable[[Item], Value], *, workers: int, ahead: int
) -> Iterator[tuple[Item, Value | ImageError]]:
    """Loads items in threads and yields them in order.

    Pillow decodes and resizes without the interpreter's lock, so threads are enough.

    Args:
      items: read only as far as they are loaded.
      load: of one item, called in a worker thread.
      workers: threads.
      ahead: items that are loaded, or being loaded, and not yielded yet; at most.

    Yields:
      each item with what was loaded, or with the ImageError that its loading raised: a broken
      file is for the caller to count. Any other exception is raised.

    Raises:
      ValueError: fewer than one worker or item ahead.
    """
    if workers < 1 or ahead < 1:
        raise ValueError(f"workers and ahead must be at least 1, got {workers} and {ahead}")
    source = iter(items)
    queue: deque[tuple[Item, Future[Value]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="decode")
    try:
        while True:
            while len(queue) < ahead and (item := next(source, None)) is not None:
                queue.append((item, pool.submit(load, item)))
            if not queue:
                return
            item, future = queue.popleft()
            try:
                value: Value | ImageError = future.result()
            except ImageError as error:
                value = error
            yield item, value
    finally:
        pool.shutdown(cancel_futures=True)
