"""Reports of an evaluation's folder: records in, a page and tables out; no model is run, no torch is needed."""
