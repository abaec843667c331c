"""The SwinUNETR of a checkpoint, its weights, and what makes it fast."""
