"""Files: read within limits, written atomically, and never executed."""
