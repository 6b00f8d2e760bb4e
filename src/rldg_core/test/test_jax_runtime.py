"""JAX's threads and cache, each in its own process, since both are fixed when JAX starts."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os
from rldg_core.jax_runtime import cache_compilations, limit_cpu_threads
allowed = os.sched_getaffinity(0)
cache_compilations()
limit_cpu_threads(1)
import jax
assert os.sched_getaffinity(0) == allowed
assert all(os.sched_getaffinity(int(thread)) == allowed for thread in os.listdir("/proc/self/task"))
names = [open(f"/proc/self/task/{thread}/comm").read() for thread in os.listdir("/proc/self/task")]
print(sum("XLAEigen" in name for name in names), jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core")
def test_jax_uses_one_thread_unless_all_cores_are_allowed(tmp_path):
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)
    out = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    threads, cache = out.stdout.split()
    assert int(threads) <= 1 and cache == str(tmp_path / "rldg" / "jax")
