"""The page for people that ``--metrics`` serves: who is on, the status, the last hour as plots.

:mod:`popserv.status_page.monitor` samples the metrics and collects what the page shows,
:mod:`popserv.status_page.page` makes HTML of it, and :mod:`popserv.status_page.resource` serves it.

This package may import metrics, control, and what is below them.
"""
