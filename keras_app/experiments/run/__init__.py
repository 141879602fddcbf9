"""What every run does: its folder, log, checkpoints, and the terminal."""
