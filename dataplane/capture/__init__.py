"""Files: capture formats in and out."""
