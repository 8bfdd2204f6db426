"""Jobs as the gateway's clients meet them: submitting, watching, fetching results."""
