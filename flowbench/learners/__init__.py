"""Turn the losses of agents into updates: eager, stacked over seeds, or recorded as CUDA graphs."""
