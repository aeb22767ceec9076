"""Recordings: read, simulated, checked, split, and turned into what networks read."""
