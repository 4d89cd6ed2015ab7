"""Why a policy is not exported. Imports no torch."""


class ExportError(Exception):
    """One line that says what to do about it."""
