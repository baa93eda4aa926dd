"""Faults in single lines of popserv, each of which a test must find: ``make mutation``.

====================  ===========================================================
``operators``         what is changed: operators of cosmic-ray, and three of our own
``mutants``           the mutants of a module, and what of it changed since a revision
``covering``          the tests that run each line, and how long they take
``running``           forks a process for a mutant, and runs tests until one fails
``results``           what has been run, which mutants are equivalent, the table
``equivalents.toml``  mutants that no test has to find, each with the reason
====================  ===========================================================

Only the operators are cosmic-ray's: its own command starts Python for each mutant and changes the
file in the checkout.  mutmut runs pytest, and leaves out each class and function with a decorator,
so that it would change no store and no checker.
"""
