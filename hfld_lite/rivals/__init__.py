"""What HFLKD is compared with: other methods' losses, the released code, other networks."""
