"""The one exception that a caller can mend."""


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints the line and exits with code 2; a program may catch it as a
    `ValueError`. Anything else that is raised is a fault of this library.

    Example:
        >>> raise UserError("recipe.yaml: unknown key 'optimiser'; did you mean 'optimizer'?")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: recipe.yaml: unknown key 'optimiser'; did you mean 'optimizer'?
    """
