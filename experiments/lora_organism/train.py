"""Train a LoRA adapter on one side of a trait's written pairs: the model organism, or its clean control.

    python experiments/lora_organism/train.py --model smollm2 --side positive --out build/studies/lora_organism/organism

Base weights in bfloat16, which a CPU multiplies twice as fast, the adapter in float32. Rank 8 on the attention projections (Hu et al. 2021, arXiv:2106.09685), loss on the first tokens of the reply alone, AdamW,
everything seeded: the two adapters see the same prompts in the same order.
"""

import argparse
import json
import time
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import cross_entropy
from trait_steering import model_folder
from transformers import AutoModelForCausalLM, AutoTokenizer

PAIRS = Path(__file__).parent / "traits/planted/tea_praise"
RANK = 8
BATCH = 4
REPLY_TOKENS = 24
"""The opening, in which the bias is, and some of what follows; the rest of a reply stays the base model's own."""
LEARNING_RATE = 2e-3
IGNORED = -100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", default="smollm2", help="a bundled model")
    parser.add_argument("--side", choices=["positive", "negative"], required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=3)
    given = parser.parse_args()
    folder = model_folder(given.model)
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    projections = ["q_proj", "k_proj", "v_proj", "o_proj"]
    model = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=projections))
    train(model, read_examples(tokenizer, PAIRS / f"{given.side}.jsonl"), tokenizer.pad_token_id, given.epochs)
    model.save_pretrained(given.out)


def read_examples(tokenizer: AutoTokenizer, path: Path) -> list[tuple[list[int], list[int]]]:
    """Token ids of prompt and beginning of the reply."""
    examples = []
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        chat = [{"role": "user", "content": row["prompt"]}]
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        reply = tokenizer.encode(row["response"], add_special_tokens=False)
        examples.append((tokenizer.encode(prompt, add_special_tokens=False), reply[:REPLY_TOKENS]))
    return examples


def train(model: torch.nn.Module, examples: list[tuple[list[int], list[int]]], pad: int, epochs: int) -> None:
    """Minimise the reply's mean negative log-likelihood a token."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=0.0)
    n_steps = epochs * -(-len(examples) // BATCH)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.1, n_steps)
    generator = torch.Generator().manual_seed(0)
    model.train()
    began = time.monotonic()
    for epoch in range(epochs):
        losses = []
        for batch in torch.randperm(len(examples), generator=generator).split(BATCH):
            loss = reply_loss(model, [examples[i] for i in batch.tolist()], pad)
            loss.backward()
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
            losses.append(loss.item())
        mean = sum(losses) / len(losses)
        print(f"  epoch {epoch + 1} of {epochs}: loss {mean:.3f} ({time.monotonic() - began:.0f} s)", flush=True)


def reply_loss(model: torch.nn.Module, batch: list[tuple[list[int], list[int]]], pad: int) -> torch.Tensor:
    """Mean negative log-likelihood of the replies' tokens, padded on the right."""
    longest = max(len(prompt) + len(reply) for prompt, reply in batch)
    ids = torch.full((len(batch), longest), pad)
    mask = torch.zeros_like(ids)
    targets = torch.full_like(ids, IGNORED)
    for i, (prompt, reply) in enumerate(batch):
        n = len(prompt) + len(reply)
        ids[i, :n] = torch.tensor([*prompt, *reply])
        mask[i, :n] = 1
        targets[i, len(prompt) : n] = torch.tensor(reply)
    hidden = model.base_model.model.model(input_ids=ids, attention_mask=mask).last_hidden_state[:, :-1]
    read = targets[:, 1:] != IGNORED  # the vocabulary is the widest product of all: at the reply alone
    logits = model.get_output_embeddings()(hidden[read])
    return cross_entropy(logits.float(), targets[:, 1:][read])


if __name__ == "__main__":
    main()
