"""RLDG's variant of an upstream model: the wrist image goes into the primary tokenizer, the wrist tokenizer goes.

Language-conditioned: no goal image is given, so the primary tokenizer sees zeros in its place (paper, appendix).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from rldg_core.errors import UserError
from rldg_policy.octo.model import Params

PRIMARY = "primary"


def rldg_variant(config: Mapping[str, Any], params: Params) -> tuple[dict[str, Any], Params]:
    """(config.json, parameters) without any observation tokenizer but `primary`; what is kept is not copied.

    Raises UserError when there is no primary tokenizer.
    """
    variant = copy.deepcopy(dict(config))
    tokenizers = variant["model"]["observation_tokenizers"]
    if PRIMARY not in tokenizers:
        raise UserError(f"config.json: model.observation_tokenizers: no {PRIMARY!r}, it has {', '.join(tokenizers)}")
    dropped = [name for name in tokenizers if name != PRIMARY]
    variant["model"]["observation_tokenizers"] = {PRIMARY: tokenizers[PRIMARY]}
    gone = {
        part
        for name in dropped
        for part in (f"observation_tokenizers_{name}", f"obs_{name}_projection", f"obs_{name}_pos_embedding")
    }
    transformer = {name: value for name, value in params["octo_transformer"].items() if name not in gone}
    return variant, {**params, "octo_transformer": transformer}
