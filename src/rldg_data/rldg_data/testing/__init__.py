"""Makers of tasks, Steps, bags and datasets for tests, of this suite and of packages that extend it."""
