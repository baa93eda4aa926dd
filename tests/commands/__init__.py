"""The extensions' commands, each on a whole connection."""
