"""Who answers a question: the Question and Answerer seam, and the backends behind it."""
