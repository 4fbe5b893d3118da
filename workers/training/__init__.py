"""What runs inside a trainer process: the loop, its checkpoints, and what is published at the end."""
