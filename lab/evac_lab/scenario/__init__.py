"""Scenario files: what a cluster is, what happens to it and what must hold at the end.

Shared by both kinds of lab. `document` holds the fields, `timeline` what can happen; `verbs` (with
`forms`, what each line may look like) and `expect` are the two small languages; `reading` puts a
file together and names the line of every mistake (`names`: words that nothing was declared for;
`knobs`: settings).
"""
