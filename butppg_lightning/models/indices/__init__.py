"""Signal indices computed from raw windows: side inputs of the head, and baselines."""
