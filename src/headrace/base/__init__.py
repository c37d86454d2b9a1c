"""What every room may use: errors, limits, time and chance. Imports nothing of headrace."""
