"""The policy server, the compact generalist and its fine-tuning."""
