"""What crosses a process border: shared words, agent messages, header names."""
