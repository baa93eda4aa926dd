"""Fuzzing: what popserv reads from others, with inputs that coverage guides: ``make fuzz``.

=============  =====================================================================
``targets``    what is fuzzed, and what must hold for each input
``target``     what a target is
``command``    the options
``turns``      the turns of the targets
``native``     the functions in C, called from C with the compiler's sanitizers
``run``        calls a target, counts and times its inputs, keeps the one that fails
``totals``     counts the inputs of all runs
``stopping``   SIGINT and SIGTERM end a run in order
``cost``       processor time, calls and memory of an input, and their bounds
``libfuzzer``  inputs from atheris, in a process of its own
``mutation``   inputs from a seed: for the tests, and where atheris does not exist
``reaching``   the lines that such an input is the first to reach
``corpus``     inputs in files: ``corpus`` beside it, and ``build/fuzz``
``keeping``    chooses the inputs that are kept in ``corpus``
=============  =====================================================================
"""
