"""How networks run on this computer: devices, precision and memory, never what they compute."""
