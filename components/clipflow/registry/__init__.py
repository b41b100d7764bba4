"""What becomes of registered versions: where one came from, taking one back, giving one away."""
