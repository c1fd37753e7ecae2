"""A judge: any OpenAI-compatible model that rates replies from 0 to 100 by a written rubric.

`Judge` asks the model, with a cache, a budget and limits; `TraitJudge` is a plain callable `(trait, prompt, reply) -> score`.
"""

from trait_client.judge.config import JudgeConfig
from trait_client.judge.judge import Judge, JudgeUsage
from trait_client.judge.judgement import JudgeAnswerError, JudgeBudgetError, JudgeEndpointError, JudgeError, Judgement
from trait_client.judge.rubric import Rubric
from trait_client.judge.trait_judge import TraitJudge

__all__ = [
    "Judge",
    "JudgeAnswerError",
    "JudgeBudgetError",
    "JudgeConfig",
    "JudgeEndpointError",
    "JudgeError",
    "JudgeUsage",
    "Judgement",
    "Rubric",
    "TraitJudge",
]
