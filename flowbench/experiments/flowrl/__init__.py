"""FlowRL (arXiv 2506.12811): what its figures show, as experiments."""
