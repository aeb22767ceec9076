"""The version, where packaging and saved runs both find it."""

__version__ = "0.7.1"
