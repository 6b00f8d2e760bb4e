"""`rldg checkpoint` on synthetic folders with the layout of the original projects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from flax.serialization import msgpack_serialize
from typer.testing import CliRunner

from rldg_bringup.cli import app
from rldg_core.errors import UserError
from rldg_policy.checkpoint.manifest import read_manifest
from rldg_policy.checkpoint.statistics import choose_statistics

ACTION = {"q01": [-0.01] * 3 + [-0.05] * 3 + [0.0], "q99": [0.012] * 3 + [0.04] * 3 + [1.0]}


def openvla(folder: Path) -> Path:
    """Write config.json of a pre-trained OpenVLA with the statistics of two datasets."""
    stats = {"bridge": {"action": ACTION}, "fractal": {"action": {**ACTION, "q99": [1.0] * 7}}}
    config = {"model_type": "openvla", "image_sizes": [224, 224], "norm_stats": stats}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def octo(folder: Path, size: int = 256) -> Path:
    """Write the folder of an Octo fine-tuning: unnamed statistics, an example batch, two steps."""
    head = {"action": {"kwargs": {"action_horizon": 4}}}
    (folder / "config.json").write_text(json.dumps({"model": {"heads": head}, "window_size": 2}))
    (folder / "dataset_statistics.json").write_text(json.dumps({"action": ACTION}))
    batch = {"observation": {"image_primary": np.zeros((1, 2, size, size, 3), np.uint8)}}
    (folder / "example_batch.msgpack").write_bytes(msgpack_serialize(batch))
    for step in (500, 1000):
        (folder / str(step)).mkdir()
    return folder


def rldg(*arguments: object) -> dict[str, Any]:
    """Return the JSON output of the command. Exceptions pass through."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def adopt(folder: Path, backend: str, key: str, *more: object) -> dict[str, Any]:
    given_options = {"--camera": "wrist", "--rate-hz": 5, **dict(zip(more[::2], more[1::2], strict=True))}
    options = [part for pair in given_options.items() for part in pair]
    return rldg("checkpoint", "adopt", folder, "--backend", backend, "--statistics-key", key, *options)


def test_openvla_checkpoint_is_adopted(tmp_path):
    openvla(tmp_path)
    assert rldg("checkpoint", "info", tmp_path)["statistics_keys"] == ["bridge", "fractal"]
    with pytest.raises(UserError, match="statistics of 2 datasets"):
        choose_statistics(tmp_path, None)
    config = (tmp_path / "config.json").read_bytes()
    adopt(tmp_path, "openvla", "fractal", "--task", "insertion")
    manifest = read_manifest(tmp_path)
    assert manifest is not None
    assert (manifest.image_size, manifest.window, manifest.horizon) == (224, 1, 1)
    assert (manifest.rate_hz, manifest.inference_hz, manifest.camera) == (5.0, 4.0, "wrist")
    assert manifest.tasks == ("insertion",) and (tmp_path / "config.json").read_bytes() == config
    assert choose_statistics(tmp_path, manifest)[1].need("q99")[0] == 1.0
    printed = rldg("checkpoint", "info", tmp_path)
    assert (
        printed["adopted"]
        and printed["largest_step_m"] == 1.0
        and printed["gripper"]
        and printed["statistics_key"] == "fractal"
    )


def test_parallel_decoding_sets_the_horizon(tmp_path):
    (openvla(tmp_path) / "rldg_openvla.json").write_text('{"decoding": "parallel", "horizon": 8}')
    assert adopt(tmp_path, "openvla", "bridge")["horizon"] == 8


def test_octo_checkpoint_is_adopted(tmp_path):
    octo(tmp_path)
    printed = adopt(tmp_path, "octo", "bridge", "--rate-hz", 5, "--camera", "side", "--window", 1)
    assert (printed["image_size"], printed["window"], printed["horizon"], printed["version"]) == (256, 1, 4, 1000)
    assert printed["rate_hz"] == 5.0 and printed["camera"] == "side"
    printed = rldg("checkpoint", "info", tmp_path)
    assert printed["largest_step_m"] == pytest.approx(0.012) and printed["largest_step_rad"] == pytest.approx(0.05)
    with pytest.raises(UserError, match=r"rldg\.json: exists already"):
        adopt(tmp_path, "octo", "bridge")


def test_refused_checkpoint_is_unchanged(tmp_path):
    openvla(tmp_path)
    for arguments, reason in [
        (("openvla", "libero"), r"config\.json: no statistics for 'libero', it has bridge, fractal"),
        (("octo", "bridge"), r"config\.json: not an Octo configuration: \'model\' is missing"),
        (("openvla", "bridge", "--camera", ""), r"rldg\.json: camera"),
    ]:
        with pytest.raises(UserError, match=reason) as error:
            adopt(tmp_path, *arguments)
        assert "\n" not in str(error.value)
    with pytest.raises(UserError, match="no such file or folder"):
        rldg("checkpoint", "info", tmp_path / "nowhere")
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(UserError, match="model_type: found 'llama', expected 'openvla'"):
        adopt(tmp_path, "openvla", "bridge")
    assert [path.name for path in tmp_path.iterdir()] == ["config.json"]


def test_damaged_octo_folders_are_refused_by_name(tmp_path):
    octo(tmp_path)
    (tmp_path / "example_batch.msgpack").write_bytes(msgpack.packb({"observation": 3}))
    with pytest.raises(UserError, match=r"example_batch\.msgpack: no observation/image_primary"):
        adopt(tmp_path, "octo", "bridge")
    (tmp_path / "example_batch.msgpack").unlink()
    with pytest.raises(UserError, match=r"example_batch\.msgpack: cannot read"):
        adopt(tmp_path, "octo", "bridge")
    for step in ("500", "1000"):
        (tmp_path / step).rmdir()
    with pytest.raises(UserError, match="no folder <step>/ with weights"):
        adopt(tmp_path, "octo", "bridge")
