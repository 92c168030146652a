"""How atoms move, as steps of numbers: multiple time stepping, thermostats, a barostat.

State in, state out, with no I/O: whoever takes a step answers what it asks for, from a service or
inside one.
"""
