"""What a job makes of a row: a text (:mod:`.texts`), or the score (:mod:`.score`) or vector (:mod:`.embed`) of one."""
