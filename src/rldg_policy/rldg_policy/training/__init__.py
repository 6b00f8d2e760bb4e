"""Fine-tuning code shared by all generalists: datasets, samples, augmentation, training state, checks."""
