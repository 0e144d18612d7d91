"""The order of training examples: a pure function of (seed, epoch), so that any place in it can be found at once.

The rows 0 … count-1 of a selection stand in their published order. Each epoch permutes them twice: first blocks of
BLOCK consecutive rows, over the whole selection; then single rows, within windows of WINDOW rows of that block order.
A window thus lies in WINDOW / BLOCK long pieces, which the system is asked to read ahead, and a resumed stream begins
with the one that it was in. The published order is itself a shuffle of the whole split, so neighbours in it have
nothing in common to begin with.

Every permutation sorts by keys, and every key is a hash of (seed, epoch, purpose, row): nothing depends on what was
drawn before. Needs NumPy only.
"""

import dataclasses
import functools

import numpy as np

#: Consecutive rows that stay in one window.
BLOCK = 32
#: Rows that are shuffled, and read ahead, as one.
WINDOW = 1024

_BLOCKS, _ROWS, _CLASSES, _EXAMPLES = range(4)  # purposes of a key


def hash_keys(*parts: int | np.ndarray) -> np.ndarray:
    """uint64 keys, uniform and independent for different parts; parts are integers and broadcast.

    Each part is mixed in by the finaliser of SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number
    Generators, OOPSLA 2014).
    """
    state = np.zeros(1, np.uint64)
    for part in parts:
        state = (state ^ np.asarray(part).astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return state


def example_seeds(seed: int, epoch: int, rows: np.ndarray, repeats: np.ndarray) -> np.ndarray:
    """int32 [n, 2]: the seeds from which all randomness of an example derives.

    Args:
      seed, epoch: of the stream.
      rows: [n], of the selection.
      repeats: [n], how many times the row was there in this epoch already; not 0 only when classes are resampled.
    """
    return hash_keys(seed, epoch, _EXAMPLES, rows, repeats).view(np.int32).reshape(-1, 2)


@dataclasses.dataclass(frozen=True, eq=False)
class Order:
    """Which rows a stream reads, epoch by epoch, in windows.

    Attributes:
      count: rows of the selection.
      seed: any integer from 0 to 2**63 - 1.
      shuffle: False keeps the published order.
      classes: int8 [count], -1 unknown; given, each class that is present fills an equal part of every epoch, rare
        ones by repetition and common ones by a choice that is new in each epoch. Unknown rows come once.
      first, length: the part of every epoch that is read; of all hosts each reads another. None is to the end.
    """

    count: int
    seed: int = 0
    shuffle: bool = True
    classes: np.ndarray | None = None
    first: int = 0
    length: int | None = None

    @property
    def epoch_length(self) -> int:
        """Examples of an epoch, on all hosts together."""
        if self.classes is None:
            return self.count
        sizes = np.bincount(self.classes[self.classes >= 0])
        return int(_share(sizes) * np.count_nonzero(sizes) + self.count - sizes.sum())

    @property
    def windows(self) -> int:
        """Windows of an epoch that are read."""
        return -(-self._length // WINDOW)

    def window(self, number: int) -> tuple[int, np.ndarray, np.ndarray]:
        """One window, in time that does not depend on its number but for the first one of an epoch.

        Args:
          number: counts on through the epochs, `windows` in each.

        Returns:
          (epoch, rows [n], repeats [n]) as `example_seeds` takes them.
        """
        return _window(self, number)

    def window_at(self, example: int) -> int:
        """The number of the window that has an example, counted through all epochs."""
        epoch, position = divmod(example, self._length)
        return epoch * self.windows + position // WINDOW

    def examples(self, first: int, stop: int) -> tuple[np.ndarray, np.ndarray]:
        """Those from `first` to before `stop`, counted through all epochs, in time as `window`.

        Returns:
          rows int64 [n], and their `example_seeds`, int32 [n, 2].
        """
        rows, seeds = [], []
        while first < stop:
            skip = first % self._length % WINDOW
            epoch, *parts = _window(self, self.window_at(first))
            parts = [part[skip : skip + stop - first] for part in parts]
            rows.append(parts[0])
            seeds.append(example_seeds(self.seed, epoch, *parts))
            first += len(parts[0])
        return np.concatenate(rows), np.concatenate(seeds)

    @property
    def _length(self) -> int:
        return self.epoch_length - self.first if self.length is None else self.length


@functools.lru_cache(maxsize=8)
def _window(order: Order, number: int) -> tuple[int, np.ndarray, np.ndarray]:
    epoch, index = divmod(number, order.windows)
    stop = min((index + 1) * WINDOW, order._length)
    here = slice(order.first + index * WINDOW, order.first + stop)
    if not order.shuffle:
        return epoch, np.arange(here.start, here.stop), np.zeros(here.stop - here.start, np.int64)
    rows, repeats = (part[here] for part in _epoch(order, epoch))
    keys = np.argsort(hash_keys(order.seed, epoch, _ROWS, rows, repeats), kind="stable")
    return epoch, rows[keys], repeats[keys]


@functools.lru_cache(maxsize=2)
def _epoch(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of a whole epoch before they are shuffled within windows, and how often each was there before."""
    if order.classes is not None:
        return _resampled(order, epoch)
    blocks = np.argsort(hash_keys(order.seed, epoch, _BLOCKS, np.arange(-(-order.count // BLOCK))), kind="stable")
    rows = (blocks[:, None] * BLOCK + np.arange(BLOCK)).reshape(-1)
    return rows[rows < order.count], np.zeros(order.count, np.int64)


def _resampled(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """An equal part for each class, in an order that knows no blocks: repetitions lie all over the epoch."""
    share = _share(np.bincount(order.classes[order.classes >= 0]))
    rows, repeats = [], []
    for label in np.unique(order.classes):
        members = np.flatnonzero(order.classes == label)
        members = members[np.argsort(hash_keys(order.seed, epoch, _CLASSES, members), kind="stable")]
        slots = np.arange(share if label >= 0 else len(members))
        rows.append(members[slots % len(members)])
        repeats.append(slots // len(members))
    rows, repeats = np.concatenate(rows), np.concatenate(repeats)
    mixed = np.argsort(hash_keys(order.seed, epoch, _BLOCKS, rows, repeats), kind="stable")
    return rows[mixed], repeats[mixed]


def _share(sizes: np.ndarray) -> int:
    """Examples of each class in an epoch: the mean over the classes that are present, at least 1."""
    return max(1, int(sizes.sum()) // max(1, np.count_nonzero(sizes)))
