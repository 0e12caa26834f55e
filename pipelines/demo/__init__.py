"""The example corpus, the questions asked of it, and the report; `run` puts them through the system."""

from pipelines.demo.answers import ASKED, AnswerRun, Asked, answer_totals
from pipelines.demo.corpus import MANIFEST, build
from pipelines.demo.questions import QUESTIONS, Question
from pipelines.demo.report import answer_table, table, write_report
from pipelines.demo.runs import IngestSummary, QueryRun, Totals, totals

__all__ = [
    "ASKED",
    "MANIFEST",
    "QUESTIONS",
    "AnswerRun",
    "Asked",
    "IngestSummary",
    "QueryRun",
    "Question",
    "Totals",
    "answer_table",
    "answer_totals",
    "build",
    "table",
    "totals",
    "write_report",
]
