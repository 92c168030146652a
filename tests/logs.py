"""The log of one package, without what other tests make other packages log.

A client that another test left behind, for example, may try to connect to a port that is now that
of a service of this test, whose web server then logs an invalid request.
"""


def records_of(caplog, package):
    """Return the records in the log whose loggers belong to a package."""
    return [record for record in caplog.records if record.name.partition(".")[0] == package]
