"""Answers over HTTP. `gateway` is the HTTP side, which knows no Ray; `app` puts it on Ray Serve."""
