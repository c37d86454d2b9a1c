"""Plain values that rooms exchange. No I/O, no clock."""
