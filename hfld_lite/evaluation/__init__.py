"""How good a trained network is, and when to distrust its answer."""
