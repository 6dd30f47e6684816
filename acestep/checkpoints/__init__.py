"""Which models there are, where they lie on this computer, and how they get here."""
