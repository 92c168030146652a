"""Content of files that tries to run code when it is read."""


class Payload:
    """Is rebuilt by a call when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call
