"""What is wrong with Maildirs, found without a lock and without a change, for ``popserv doctor``.

Their files are read by the code that sessions read them with.
"""
