"""What a training run tells Prometheus: the figures of its log, by their names there. Knows no Ray."""

from __future__ import annotations

from pipelines.core.job_metrics import JobMetric

_LABELS = ("model",)  # encoder, aligner or llava

STEP = JobMetric("mmrag_train_step", "gauge", "The last step that was done; while a run goes on", _LABELS)
FIGURES = {
    "loss": JobMetric("mmrag_train_loss", "gauge", "Of the last step", _LABELS),
    "eval_loss": JobMetric("mmrag_train_eval_loss", "gauge", "Of held-out samples", _LABELS),
    "learning_rate": JobMetric("mmrag_train_learning_rate", "gauge", "Of the last step", _LABELS),
    "grad_norm": JobMetric("mmrag_train_grad_norm", "gauge", "Before clipping", _LABELS),
    "tokens": JobMetric("mmrag_train_tokens", "counter", "Tokens read, by all workers", _LABELS),
}

METRICS = (STEP, *FIGURES.values())
