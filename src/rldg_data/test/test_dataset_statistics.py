"""Streaming statistics equal numpy's over all rows at once, quantiles bit for bit."""

from __future__ import annotations

import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from rldg_data.rlds import statistics
from rldg_data.rlds.statistics import column_statistics

values32 = st.one_of(
    st.floats(-1e3, 1e3, width=32),
    st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    st.floats(-(2.0**-120), 2.0**-120, width=32),
)


def numpys(rows: np.ndarray) -> dict[str, np.ndarray]:
    wide = rows.astype(np.float64)
    low, high = np.quantile(wide, [0.01, 0.99], axis=0)
    plain = {"mean": wide.mean(0), "std": wide.std(0), "min": wide.min(0), "max": wide.max(0)}
    return {**plain, "q01": low, "p01": low, "q99": high, "p99": high}


def check(rows: np.ndarray, cuts: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for index, part in enumerate(np.split(rows, sorted(cuts))):
            files.append(Path(folder) / str(index))
            files[-1].write_bytes(part.tobytes())
        found = column_statistics(files, rows.shape[1])
    assert found.count == len(rows)
    for name, expected in numpys(rows).items():
        if name in ("mean", "std"):
            scale = np.abs(rows).max(initial=1e-30)
            np.testing.assert_allclose(found.values[name], expected, rtol=1e-12, atol=1e-12 * scale, err_msg=name)
        else:
            np.testing.assert_array_equal(found.values[name], expected, err_msg=name)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_statistics_equal_those_of_numpy(data: st.DataObject) -> None:
    shape = (data.draw(st.integers(1, 250)), data.draw(st.integers(1, 3)))
    rows = data.draw(npst.arrays(np.float32, shape, elements=values32, fill=st.floats(-1, 1, width=32)))
    check(rows, data.draw(st.lists(st.integers(0, len(rows)), max_size=2)))


@pytest.mark.parametrize("count", [1, 2, 99, 100, 101, 102, 50_001])
def test_statistics_over_several_chunks_equal_those_of_numpy(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK_ROWS", 1000)
    rng = np.random.default_rng(count)
    rows = np.stack([rng.normal(size=count), rng.choice([0.0, 1.0], count), 1e3 + rng.normal(size=count)], axis=1)
    check(rows.astype(np.float32), [count // 3])


def test_memory_does_not_grow_with_the_rows(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        path = tmp_path / str(count)
        path.write_bytes(np.random.default_rng(0).normal(size=(count, 15)).astype(np.float32).tobytes())
        tracemalloc.start()
        column_statistics([path], 15)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(400_000) < 1.1 * peak(100_000) < 100e6
