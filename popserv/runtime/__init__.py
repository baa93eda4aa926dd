"""Thread pools, coroutines and the bus between workers."""
