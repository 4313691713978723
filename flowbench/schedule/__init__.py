"""Which cells are due, which train together, and where: on this machine or on a cluster."""
