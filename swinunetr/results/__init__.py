"""What a network finds in cases: segmentations, scores and pictures."""
