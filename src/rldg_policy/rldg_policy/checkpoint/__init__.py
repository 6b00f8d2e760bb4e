"""What the checkpoint folder of every generalist holds beside its weights: manifest and statistics."""
