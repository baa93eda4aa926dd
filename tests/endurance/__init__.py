"""Servers that are used for a million sessions: ``make endurance``, and a short run in the tests.

============  ======================================================================
``run``       a server, its clients, and what happens to it meanwhile, in rounds
``operator``  what the operator does in a round: the log, certificates, users, kills
``client``    a client process: polls, deliveries, and sessions that are abandoned
``trends``    what the server takes after each round, and how much of it may grow
``report``    the tables and the plot
============  ======================================================================
"""
