"""What is told: summaries and one-minute series."""
