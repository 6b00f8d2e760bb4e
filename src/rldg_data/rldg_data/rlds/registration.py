"""Files beside a dataset that register it with unmodified OpenVLA and Octo.

Names of keys and functions are those of openvla/openvla (prismatic/vla/datasets/rlds/oxe) and octo-models/octo
(octo/data/dataset.py, octo/utils/spec.py). Neither file imports TensorFlow: slices work on its tensors as they are.
"""

from __future__ import annotations

from collections.abc import Iterable

from rldg_data.episodes.episode import IMAGE_KEY

OPENVLA_FILE = "openvla_register.py"
OCTO_FILE = "octo_kwargs.py"

_STANDARDIZE = '''
def standardize(trajectory):
    """Drop the last step: it holds the final observation, and its action means nothing."""
    return {
        key: standardize(value) if isinstance(value, dict) else value[:-1] for key, value in trajectory.items()
    }
'''


def openvla_register(name: str, image_keys: Iterable[str]) -> str:
    """Source of a module that adds the dataset to OpenVLA's tables when it is imported."""
    views = image_views(image_keys)
    return f'''"""Registers the dataset {name} in OpenVLA: import this module before its training starts, e.g.

    PYTHONPATH=<this folder> python -c "import openvla_register, runpy; \\
        runpy.run_path('vla-scripts/finetune.py', run_name='__main__')" \\
        --data_root_dir <folder that holds {name}/> --dataset_name {name}
"""

from prismatic.vla.datasets.rlds.oxe.configs import OXE_DATASET_CONFIGS, ActionEncoding, StateEncoding
from prismatic.vla.datasets.rlds.oxe.transforms import OXE_STANDARDIZATION_TRANSFORMS

NAME = "{name}"

{_STANDARDIZE}

OXE_DATASET_CONFIGS[NAME] = {{
    "image_obs_keys": {views},
    "depth_obs_keys": {{"primary": None, "secondary": None, "wrist": None}},
    "state_obs_keys": ["state"],
    "state_encoding": StateEncoding.POS_QUAT,
    "action_encoding": ActionEncoding.EEF_POS,
}}
OXE_STANDARDIZATION_TRANSFORMS[NAME] = standardize
'''


def octo_kwargs(name: str, version: str, image_keys: Iterable[str]) -> str:
    """Source of a module whose DATASET_KWARGS are arguments of Octo's make_single_dataset."""
    views = {view: key for view, key in image_views(image_keys).items() if key}
    return f'''"""Arguments for Octo: make_single_dataset(octo_kwargs.DATASET_KWARGS, train=True)."""

from pathlib import Path

_FOLDER = Path(__file__).resolve().parent

{_STANDARDIZE}

DATASET_KWARGS = {{
    "name": "{name}:{version}",
    "data_dir": str(_FOLDER.parents[1]),
    "image_obs_keys": {views},
    "proprio_obs_key": "state",
    "language_key": "language_instruction",
    "action_normalization_mask": [True, True, True, True, True, True, False],
    "dataset_statistics": str(_FOLDER / "dataset_statistics.json"),
    "standardize_fn": {{"module": __name__, "name": "standardize", "args": (), "kwargs": {{}}}},
}}
'''


def image_views(keys: Iterable[str]) -> dict[str, str | None]:
    """Views of both: `image` is primary; a further key that contains wrist is wrist, any other secondary."""
    others = [key for key in keys if key != IMAGE_KEY]
    wrist = next((key for key in others if "wrist" in key), None)
    return {"primary": IMAGE_KEY, "secondary": next((k for k in others if k != wrist), None), "wrist": wrist}
