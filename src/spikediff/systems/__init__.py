"""Published systems and our own, one folder each; a folder's docstring says what to read first."""
