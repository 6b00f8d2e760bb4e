"""A dataset's README.md."""
