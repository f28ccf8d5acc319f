"""What a table's columns are: their names, their kinds and how their values are written.

`schema` is the file to read first: a `Schema` is inferred from rows, merged over clients, and read
from and written to TOML. The other files each do a part of that:

    column          one column
    inference       telling what a column is
    dates, keys     how text writes dates, and what keys look like
    merging         one column from those of several clients
    checking        whether rows have a schema
    cells           cells of type object as the one type that they are
    sdv_metadata    to and from SDV's metadata
"""

from genesis.schema.column import Column, Kind
from genesis.schema.schema import Schema

__all__ = ["Column", "Kind", "Schema"]
