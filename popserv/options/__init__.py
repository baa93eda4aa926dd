"""The options of ``twistd pop3``, their values, and the configuration file."""
