"""Random sessions with a whole server, compared with a model: ``make soak``, and a short run here.

================  ==================================================================
``plan``          the steps of a run, which follow from its seed alone
``driver``        carries the steps out
``clients``       what clients do, and what they compare with the model
``programs``      what other programs do with the mail
``operator``      starts, restarts, signals, renewals, accidents
``user``          a user: the model of the maildrop, and the open session
``model``         what the server may reply, and what may be on disk
``stores``        the stores as other programs read and write them
``connection``    a connection, and the transcript
``process``       a server: its start, its processes, what they take
``report``        the table of a run: sessions, latency, memory, descriptors, threads
``store_plugin``  stores that each break one promise
================  ==================================================================

``model`` and ``stores`` use nothing of popserv, so that its errors are not repeated here.
"""
