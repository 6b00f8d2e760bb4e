"""What the fine-tuning of all generalists shares: samples, augmentation, training state, guards."""
