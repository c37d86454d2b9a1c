"""Records, metrics and logs. Every room may write here; nothing here decides."""
