"""How fast networks are, side by side, in every backend of a machine."""
