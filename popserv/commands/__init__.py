"""The verbs: one module for the RFC's commands, one for each extension."""
