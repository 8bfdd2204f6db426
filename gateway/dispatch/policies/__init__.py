"""What `dispatch` decides by: balance, admission, hedging, retries, ejection. Pure.

Each policy is told what happened and answers one question. Imports the records of its neighbours at
most; never touches a call's state, which is `dispatch`'s.
"""
