"""The replica's process: loads a model, receives calls, runs batches, answers.

`loop` carries out what `worker.session` decides, `executor` runs the model. Never touches the
store: jobs come over `worker.jobs`.
"""
