"""The compact generalist: from a wrist image and an instruction to an action chunk; trained in minutes on one core."""
