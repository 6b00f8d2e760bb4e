"""RLDS datasets on disk as TFDS writes and reads them, without TensorFlow.

`<root>/<name>/<version>/`: dataset_info.json, features.json, dataset_statistics.json and
`<name>-<split>.tfrecord-00000-of-0000N`; one tf.train.Example per episode with flat keys (`steps/action`:
T x 7 floats). The layout follows tensorflow_datasets 4.9 (core/dataset_info.py, core/features).
"""

from rldg_data.episodes.episode import ACTION_DIM, IMAGE_KEY, METADATA_TYPES, STATE_DIM, Episode
from rldg_data.rlds.reader import Dataset, read_dataset

__all__ = ["ACTION_DIM", "IMAGE_KEY", "METADATA_TYPES", "STATE_DIM", "Dataset", "Episode", "read_dataset"]
