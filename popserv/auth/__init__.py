"""Who may log in: pieces for twisted.cred."""
