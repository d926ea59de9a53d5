"""What is done: whole runs and their folder."""
