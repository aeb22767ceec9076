"""What the notebooks need: pictures, explorers, the monitor, the workshop, exercises."""
