"""OpenVLA (Kim et al. 2024) on current torch and transformers: checkpoints, serving, fine-tuning."""
