"""Which bags become which dataset: recipe, plan, selection, stitching, relabelling."""
