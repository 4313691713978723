"""What every package may use: errors, durations, text tables, this machine, tensor states. Imports no other package."""
