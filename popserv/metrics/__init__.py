"""``--metrics``: numbers about a running server, for Prometheus and for people, over HTTP.

:mod:`popserv.metrics.catalogue` lists the metrics.  In each process that serves,
:mod:`popserv.metrics.counters` counts, :mod:`popserv.metrics.instruments` has the connections, the
commands and the realm counted, and :mod:`popserv.metrics.process` answers for the process.  In the
main process, :mod:`popserv.metrics.totals` asks all of them and adds up, and
:mod:`popserv.metrics.site` serves the sums.

This package may import server and what is below it.  It does not import workers: it is given a
function that asks all of them.  Only :mod:`popserv.metrics.exposition` requires the extra
``metrics``.
"""
