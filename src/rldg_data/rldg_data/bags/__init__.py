"""Bags of episodes: recorded, read, repaired, shown."""
