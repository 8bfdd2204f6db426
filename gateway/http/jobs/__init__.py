"""Jobs over HTTP: submit, look, wait, follow, result, cancel, retry, list.

A front of `gateway.jobs.clients`. A submit has an inference's body, whose format
`gateway.http.app` hands in. Imports nothing of another front; never touches the job store.
"""
