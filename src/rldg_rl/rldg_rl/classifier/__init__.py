"""The reward classifier: success of the task as seen in the wrist image (HIL-SERL), held out, calibrated, measured."""
