"""What HFLKD is compared with: other methods' losses, the released code, other networks.

Importing this registers them: terms, controls, weightings, and the released behaviour.
"""

from hfld_lite.rivals import dense, losses, meta, released, strategies, trusted

__all__ = ["dense", "losses", "meta", "released", "strategies", "trusted"]
