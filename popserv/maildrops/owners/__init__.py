"""Access to maildrops as the users whom they belong to, in a server that may become any user."""
