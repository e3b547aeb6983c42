"""The integer form of binary networks: bits and integer thresholds, evaluated without rounding, packed, deployed."""
