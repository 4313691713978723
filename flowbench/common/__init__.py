"""What every package may use: errors, durations, text tables, this machine, tensor states. It imports no other one."""
