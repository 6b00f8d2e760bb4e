"""OpenVLA (Kim et al. 2024) in today's torch and transformers: loading, serving, fine-tuning, writing checkpoints."""
