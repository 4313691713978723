"""A trained agent in its environment again, and its video."""
