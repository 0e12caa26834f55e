"""Training jobs. Only the job modules know Ray: `job`, `aligner_job`, `llava_job`."""
