"""What rules of operations work with: spaces of units, values that carry them, their way to the coupling graph."""
