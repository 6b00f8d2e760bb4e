"""Manifest and action statistics, which every generalist's checkpoint folder holds beside its weights."""
