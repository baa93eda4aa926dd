"""STUB"""


def is_available():
    return True


def password_forms(password):
    return [password]


def prepared_name(name):
    return name
