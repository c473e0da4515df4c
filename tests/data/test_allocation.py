import platform
import subprocess
import sys

import pytest

SCRIPT = """
from pathlib import Path
import numpy as np
from slidekick.data.allocation import freed_memory_kept

def megabytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 // 2**20

np.ones(1)
before = megabytes()
with freed_memory_kept():
    arrays = [np.ones(2**20) for _ in range(25)]  # 8 MB each
    arrays.clear()
    within = megabytes()
print(within - before, megabytes() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives freed memory back in this way")
def test_what_is_freed_stays_within_and_is_given_back_afterwards():
    said = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True).stdout
    within, after = map(int, said.split())
    assert within > 150
    assert after < 50
