"""Bags, episodes, RLDS datasets and the recorder."""
