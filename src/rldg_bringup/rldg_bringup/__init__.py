"""Stacks, launch files, task configuration, the rldg command and the demo."""
