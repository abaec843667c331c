"""What identifies a run, its folder, and what a step trains on."""
