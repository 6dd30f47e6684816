"""How good the trained networks are, measured in what they make; and how they are shipped."""
