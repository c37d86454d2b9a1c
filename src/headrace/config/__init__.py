"""Settings of a node: what can be set, where each value came from, and the page that explains them."""
