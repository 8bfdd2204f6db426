"""Jobs over HTTP: submit, look, wait, follow, result, cancel, retry, list.

A front of `gateway.jobs.clients`. A submit is a request of the Open Inference Protocol, so this
room and `oip` know each other. Never touches the job store.
"""
