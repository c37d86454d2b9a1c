"""From result files to a table and plots. Reads only what is on disk."""
