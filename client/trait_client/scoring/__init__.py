"""Scores that need no judge: lexical measures, likelihood and the evaluation questions of a trait."""
