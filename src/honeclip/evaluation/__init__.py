"""Embeddings and labels become METRICS of the contract: retrieval, zero-shot, intervals and paired differences;
`evaluate` joins them for one model and one split, `report` writes the page that a person reads."""
