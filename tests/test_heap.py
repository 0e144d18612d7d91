"""Free memory goes back to the system."""

import subprocess
import sys

SCRIPT = """
import numpy as np, pyarrow as pa, pyarrow.compute as pc
from trainers import heap

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

def small(count):
    return [np.ones(1000) for _ in range(count)]

heap.give_back()
before = resident()
kept = small(8000)[::100]  # 64 MB, of which some stay and hold the rest of the heap in place
columns = [pc.add(pa.array(np.arange(4000)), 1) for _ in range(1000)]  # 32 MB
del columns
freed = resident()
heap.give_back()
print(freed - before, resident() - before)
"""


def test_free_memory_goes_back():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    freed, after = map(int, done.stdout.split())
    assert freed - after > 70e6, (freed, after)
