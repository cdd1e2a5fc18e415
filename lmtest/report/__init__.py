"""The report of a run: tables in, pictures and one self-contained page out."""

from lmtest.report.page import write_report

__all__ = ["write_report"]
