"""What runs the model: a protocol, its implementations, and the pool that chooses among them."""
