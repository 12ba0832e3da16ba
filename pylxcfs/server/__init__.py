"""The process that answers: its parts plugged together, its tasks, signals and state."""
