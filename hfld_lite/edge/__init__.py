"""What a network costs on a device, and how it gets there."""
