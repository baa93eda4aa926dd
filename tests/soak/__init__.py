"""Random sessions with a whole server, compared with a model: ``make soak``, and a short run here.

================  ==================================================================
``plan``          the steps of a run, which follow from its seed alone
``driver``        carries the steps out
``logins``        how clients log in
``clients``       what clients do then, and what they compare with the model
``endings``       how sessions end
``programs``      what other programs do with the mail
``operator``      starts, restarts, signals, renewals, accidents
``user``          a user: the model of the maildrop, and the open session
``session``       the model of a session: what the server may reply
``model``         the model of a maildrop: what may be on disk
``stores``        the stores as other programs read and write them
``connection``    a connection, and the transcript
``process``       a server: its start, its processes, what they take
``report``        the table of a run: sessions, latency, memory, descriptors, threads
``store_plugin``  stores and a checker that each break one promise
================  ==================================================================

``session``, ``model`` and ``stores`` use nothing of popserv but the downgrader, so that its errors
are not repeated here.
"""
