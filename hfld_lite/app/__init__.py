"""Runs on disk, their reports, and the `hfld` command."""
