"""Everything on disk: records, rows, checkpoints, weights, and who may write them."""
