"""Bags of other people become episodes."""
