"""FlowRL (arXiv 2506.12811): its figures as experiments."""
