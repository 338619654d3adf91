"""The rooms of the house, one package each. They talk HTTP to each other and never import one another."""
