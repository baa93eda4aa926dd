"""One server in several processes: who opens the sockets, who serves, what joins them."""
