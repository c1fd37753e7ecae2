"""Counts of what the model generated and read in a run, and the rate."""

from dataclasses import dataclass


@dataclass
class Tally:
    """Counts of what the model did in a run.

    Attributes:
        replies: Generated replies, and `reply_tokens` their tokens.
        texts: Texts that were read, and `text_tokens` their tokens.
        seconds: Duration of the run.
    """

    replies: int = 0
    reply_tokens: int = 0
    texts: int = 0
    text_tokens: int = 0
    seconds: float = 0.0

    def __str__(self) -> str:
        done = []
        if self.replies:
            done.append(f"generated {self.replies} replies ({self.reply_tokens} tokens)")
        if self.texts:
            done.append(f"read {self.texts} texts ({self.text_tokens} tokens)")
        seconds = max(self.seconds, 1e-3)
        rate = f": {(self.replies + self.texts) / seconds:.1f} texts/s, " if done else ""
        rate += f"{(self.reply_tokens + self.text_tokens) / seconds:.0f} tokens/s" if done else ""
        return f"{' and '.join(done) or 'nothing was left to generate or read'} in {self.seconds:.1f} s{rate}"
