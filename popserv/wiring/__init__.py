"""Makes the parts of the service of ``twistd pop3`` from its options; ``tap`` joins them."""
