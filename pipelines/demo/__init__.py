"""The example corpus, the questions asked of it, and the report; `run` puts them through the system."""

from pipelines.demo.corpus import MANIFEST, build
from pipelines.demo.questions import QUESTIONS, Question
from pipelines.demo.report import table, write_report
from pipelines.demo.runs import IngestSummary, QueryRun, Totals, totals

__all__ = [
    "MANIFEST",
    "QUESTIONS",
    "IngestSummary",
    "QueryRun",
    "Question",
    "Totals",
    "build",
    "table",
    "totals",
    "write_report",
]
