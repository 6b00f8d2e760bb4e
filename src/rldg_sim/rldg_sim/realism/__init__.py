"""What sets the simulated cell apart from an ideal one: presets, and the errors of arm, sensors and cameras."""
