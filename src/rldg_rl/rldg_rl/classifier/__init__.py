"""The reward classifier: detects success of the task in the wrist image (HIL-SERL)."""
