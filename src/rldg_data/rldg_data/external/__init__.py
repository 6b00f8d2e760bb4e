"""Bags of other recorders, imported by a mapping of their topics."""
