"""What is wrong with a data set: `ValueError`s that name file and record."""

import contextlib
from collections.abc import Iterator

from diffvis_jax.errors import DiffvisError


class DatasetError(DiffvisError, ValueError):
    """An annotation that is malformed, contradicts its image, or lacks one."""


class CoordinateError(DatasetError):
    """Coordinates in another frame than they are said, or asked, to be in."""


class Faults:
    """What to do with faulty records.

    Attributes:
      skip: leave faulty records out, and go on; else the first one is raised.
      found: the messages of those left out.
    """

    def __init__(self, skip: bool = False):
        self.skip = skip
        self.found: list[str] = []

    @contextlib.contextmanager
    def at(self, where: str) -> Iterator[None]:
        """Around the reading of one record, or file: whatever goes wrong there is its fault.

        Raises:
          DatasetError: a fault, unless it is to be skipped.
        """
        try:
            yield
            return
        except DatasetError as error:
            fault = error
        except (AssertionError, MemoryError):  # our fault, or the machine's
            raise
        except Exception as error:  # a file may hold anything, and libraries say so in many ways
            said = f"{type(error).__name__}: {error}"[:300]
            fault = DatasetError(f"{where}: cannot be read ({said})")
            fault.__cause__ = error
        if not self.skip:
            raise fault
        self.found.append(str(fault))
