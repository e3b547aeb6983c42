"""Configurations with an identity, folders that hold one run each, and records that are validated when read."""

from compare.runs.configuration import Configuration, ConfigurationError, identity, read_configuration
from compare.runs.files import OutputError, write_bytes, write_text
from compare.runs.provenance import provenance
from compare.runs.record import Record, RecordError, read_record, read_records, write_record

__all__ = [
    "Configuration",
    "ConfigurationError",
    "OutputError",
    "Record",
    "RecordError",
    "identity",
    "provenance",
    "read_configuration",
    "read_record",
    "read_records",
    "write_bytes",
    "write_record",
    "write_text",
]
