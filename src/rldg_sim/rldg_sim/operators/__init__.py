"""Scripted operators."""
