"""What the notebooks need: pictures, explorers, the monitor, the workshop, exercises."""

from hfld_lite.course.environment import start

__all__ = ["start"]
