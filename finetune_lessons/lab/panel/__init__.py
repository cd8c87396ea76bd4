"""Live panels and explorers for notebooks."""
