"""Configuration of Sphinx. `make docs` builds the pages into out/docs; warnings are errors."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "RLDG for ROS 2"
author = "RLDG for ROS 2 maintainers"
copyright = "the authors; Apache-2.0"
extensions = ["myst_parser", "sphinx.ext.autodoc", "rldg_reference"]
exclude_patterns = ["_ext"]

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

# Heads of modules are plain text; types are shown once, in the signature.
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_type_aliases = {"ArrayLike": "ArrayLike", "Array": "Array"}  # numpy's union is seven lines long
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_mock_imports = ["launch", "launch_ros"]  # not on PyPI; every ROS installation has them

html_theme = "furo"
html_title = project

# Two packages have a class Episode or ObservationRecord: a short name in a signature refers to the one of its module.
suppress_warnings = ["ref.python"]
