"""System calls of a real server that fail, return short or are its last, each of them in turn.

=============  ===========================================================================
``shim.c``     the library that makes a system call fail; it is loaded into the server
``shim``       compiles and arms it: the n-th call of a class, below one directory
``prepared``   forks servers and commands that have imported everything, and start at once
``bench``      a server with one store, and the programs that use its maildrops
``database``   the SQL store of a bench
``base``       what all scenarios have, which say what is done, and what must be true
``sessions``   sessions and deliveries by a server
``sql``        those whose mail is in a database
``commands``   copies, imports and deliveries by the popserv command
``edits``      changes of a users file
``scenarios``  all of them by name
``power``      what a power loss leaves of what a session has written
``patches``    servers and commands that do not sync, which must be found
``runs``       one scenario with one fault, or with power losses
``workshop``   what all runs share
=============  ===========================================================================

``make faults`` runs all faults; the tests run some of them.
"""
