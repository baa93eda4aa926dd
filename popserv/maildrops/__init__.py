"""Where mail is kept: one module for each store."""
