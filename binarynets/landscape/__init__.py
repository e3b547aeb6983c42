"""The exact landscape of binary networks: every network on a path, every flip of every bit."""
