"""Simulated impacts of ferrite magnetic tiles, from physics."""
