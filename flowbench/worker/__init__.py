"""One group of cells in one process: reads their records, trains them, writes their rows."""
