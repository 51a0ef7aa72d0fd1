"""What a job makes of a row: a text (:mod:`.texts`), or the log probability of one (:mod:`.score`)."""
