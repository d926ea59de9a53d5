"""Other programs on the same capture, side by side in one run: `python -m bench.peers --help`."""
