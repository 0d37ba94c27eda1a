"""Train a network: the loop, and what each family learns from."""
