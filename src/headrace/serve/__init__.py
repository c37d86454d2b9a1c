"""The processes of a node and the only place that builds objects from settings."""
