"""Octo's network compared with the original: golden readouts and actions, and the parameter tree of Octo-Base."""

from __future__ import annotations

import json
import re
from functools import partial

import numpy as np
import pytest
from golden_references import OCTO_BASE_PARAMS, tensor_shapes
from golden_references import reference as golden_reference

from rldg_core.configuration import validated
from rldg_core.errors import UserError
from rldg_policy.octo.config import T5_BASE, ModelConfig, OctoConfig, T5Config
from rldg_policy.octo.t5 import position_buckets
from rldg_policy.octo.transformer import attention_structure

pytestmark = pytest.mark.timeout(300)  # XLA compiles for half a minute, longer on a busy machine


def image_tokenizer(name: str) -> dict:
    stem = {"module": "octo.model.components.vit_encoders", "name": "SmallStem16", "args": [], "kwargs": {}}
    kwargs = {"obs_stack_keys": [f"image_{name}"], "task_stack_keys": [f"image_{name}"], "encoder": stem}
    return {"module": "octo.model.components.tokenizers", "name": "ImageTokenizer", "args": [], "kwargs": kwargs}


def octo_base() -> dict:
    """Return `model` of Octo-Base 1.5."""
    language = {"encoder": "t5-base", "finetune_encoder": False}
    head = {"readout_key": "readout_action", "use_map": False, "action_horizon": 4, "action_dim": 7}
    return {
        "observation_tokenizers": {name: image_tokenizer(name) for name in ("primary", "wrist")},
        "task_tokenizers": {
            "language": {
                "module": "octo.model.components.tokenizers",
                "name": "LanguageTokenizer",
                "args": [],
                "kwargs": language,
            }
        },
        "heads": {
            "action": {
                "module": "octo.model.components.action_heads",
                "name": "DiffusionActionHead",
                "args": [],
                "kwargs": head,
            }
        },
        "readouts": {"action": 1},
        "token_embedding_size": 768,
        "transformer_kwargs": {
            "num_layers": 12,
            "mlp_dim": 3072,
            "num_attention_heads": 12,
            "dropout_rate": 0.0,
            "attention_dropout_rate": 0.0,
            "add_position_embedding": False,
        },
        "max_horizon": 10,
        "repeat_task_tokens": True,
        "use_correct_attention": True,
    }


def test_readouts_and_actions_equal_the_original(octo_golden):
    import jax

    from rldg_policy.octo.checkpoint import read_checkpoint
    from rldg_policy.octo.model import OctoModule, encode_language, sample_actions

    config = validated(OctoConfig, json.loads((octo_golden / "config.json").read_text()), "config.json")
    t5 = validated(T5Config, json.loads((octo_golden / "tiny-t5" / "config.json").read_text()), "t5")
    module = OctoModule(config.model, t5)
    params = read_checkpoint(octo_golden).params
    reference = golden_reference("octo")
    observations = {
        "image_primary": reference["image_primary"],
        "pad_mask_dict": {"image_primary": np.ones((4, 2), bool)},
    }
    tasks = {
        "language_instruction": {"input_ids": reference["ids"], "attention_mask": reference["attention_mask"]},
        "pad_mask_dict": {"language_instruction": np.ones(4, bool)},
    }
    seen = reference["timestep_pad_mask"]

    @jax.jit
    def run(params, observations, tasks, seen, key):
        groups = module.apply({"params": params}, observations, tasks, seen, method="outputs")
        encoded = {"language_instruction": encode_language(module, params, **tasks["language_instruction"])}
        chunk = sample_actions(module, params, observations, encoded, seen, key)
        return groups["readout_action"].tokens, groups["task_language"].tokens, chunk

    with jax.threefry_partitionable(False):
        readout, task, chunk = run(params, observations, tasks, seen, jax.random.PRNGKey(1))
    assert np.abs(readout - reference["readout"]).max() < 1e-5
    assert np.abs(task - reference["task_tokens"]).max() < 1e-5
    assert np.abs(np.asarray(chunk) * 0.5 + 0.1 - reference["action"]).max() < 1e-3


def test_parameter_tree_equals_that_of_octo_base():
    import jax
    import jax.numpy as jnp
    from flax.traverse_util import flatten_dict

    from rldg_policy.octo.model import OctoModule

    module = OctoModule(validated(ModelConfig, octo_base(), "octo_base"), T5_BASE)
    image = partial(jax.ShapeDtypeStruct, dtype=jnp.uint8)
    ids = jax.ShapeDtypeStruct((1, 16), jnp.int32)
    shapes = jax.eval_shape(
        module.init,
        jax.random.PRNGKey(0),
        {"image_primary": image((1, 2, 256, 256, 3)), "image_wrist": image((1, 2, 128, 128, 3))},
        {"language_instruction": {"input_ids": ids, "attention_mask": ids}},
        jax.ShapeDtypeStruct((1, 2), jnp.bool_),
    )["params"]
    flat = {name: value.shape for name, value in flatten_dict(shapes, sep="/").items()}
    assert flat == tensor_shapes(OCTO_BASE_PARAMS)
    count = sum(int(np.prod(shape)) for name, shape in flat.items() if "hf_model" not in name)
    assert 92.7e6 < count < 92.9e6


def test_relative_position_buckets_equal_those_of_t5():
    """Source: T5Attention of transformers 5.23 (32 buckets, distance 128, both directions)."""
    buckets = position_buckets(400, 32, 128)
    known = {-199: 15, -100: 15, -64: 14, -32: 12, -16: 10, -9: 8, -8: 8, -7: 7, -1: 1, 0: 0, 1: 17, 15: 25, 199: 31}
    assert {distance: int(buckets[200, 200 + distance]) for distance in known} == known


def test_attention_mask_has_the_structure_of_octo():
    prefix = [("task_language", 2)]
    steps = [("obs_primary", 2), ("obs_task_language", 2), ("readout_action", 1), ("readout_value", 1)]
    looks = attention_structure(prefix, steps, 2)
    assert looks.shape == (14, 14)
    task, first, second = slice(0, 2), slice(2, 6), slice(8, 12)
    assert looks[:, task].all()  # every token attends to the task,
    assert not looks[task, 2:].any()  # which attends to nothing else
    assert looks[first, first].all() and looks[second, first].all() and not looks[first, second].any()
    actions, values = [6, 12], [7, 13]
    assert looks[actions[1], [*range(2, 6), *range(8, 12)]].all()
    assert looks[np.ix_(actions, actions)].tolist() == [[True, False], [True, True]]
    assert not looks[np.ix_(actions, values)].any() and not looks[np.ix_(values, actions)].any()
    assert not looks[first, 6:8].any() and not looks[second, [6, 7, 12, 13]].any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda model: model["heads"]["action"].update(name="UNetDDPMActionHead"),
            "heads.action: octo.model.components.action_heads:UNetDDPMActionHead is not supported, only "
            "octo.model.components.action_heads:DiffusionActionHead",
        ),
        (lambda model: model.update(use_correct_attention=False), "use_correct_attention: Input should be True"),
        (
            lambda model: model["observation_tokenizers"]["wrist"]["kwargs"].update(use_token_learner=True),
            "observation_tokenizers.wrist.use_token_learner: Input should be False",
        ),
        (lambda model: model["transformer_kwargs"].update(num_layers=0), "transformer_kwargs.num_layers: "),
        (lambda model: model.update(vocabulary=3), "vocabulary: Extra inputs are not permitted"),
    ],
)
def test_unsupported_network_is_refused(change, reason):
    model = octo_base()
    change(model)
    with pytest.raises(UserError, match=re.escape(f"config.json: {reason}")) as error:
        validated(ModelConfig, model, "config.json")
    assert "\n" not in str(error.value)
