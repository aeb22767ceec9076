"""Recordings: read, checked, divided, looked at, simulated."""
