"""Bags of episodes: recording, reading, repair, summary."""
