"""Records in; tables and a page out. It never sees a model."""

from compare.report.sections import ReportError
from compare.report.text import markdown
from compare.report.write import write_report

__all__ = ["ReportError", "markdown", "write_report"]
