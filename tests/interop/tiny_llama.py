"""Makes the small trained Llama that export_loaders.py exports: width 256, so that groups of 128 and blocks of 256 fit.

    .venv-peers/bin/python tests/interop/tiny_llama.py FOLDER

Two blocks, grouped-query attention, an output matrix of its own, BF16, a byte-level BPE of 512 tokens, and calib.jsonl and
heldout.jsonl beside it. Text, tokenizer and weights follow from one seed: sentences of a small grammar, on which 150 steps
give peaked predictions, so that a wrong weight shows in the logits.
"""

import json
import pathlib
import random
import sys

import quiet  # noqa: F401
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SEED, STEPS, BATCH, LENGTH = 7, 150, 8, 96
SUBJECTS = "baker sailor teacher farmer doctor painter miner judge pilot tailor".split()
VERBS = "carries sells mends paints counts weighs hides buys borrows breaks".split()
OBJECTS = "lantern barrel ladder violin kettle blanket compass hammer basket mirror".split()
PLACES = "harbour market mill school bridge garden chapel tavern quarry station".split()
TIMES = "dawn noon dusk midnight spring winter".split()


def sentence(rng: random.Random) -> str:
    """A subject always does the same kind of thing with the same kind of object: there is something to learn."""
    subject = rng.randrange(10)
    verb, thing, place = ((subject * step + rng.randrange(3)) % 10 for step in (3, 7, 9))
    when = TIMES[(subject + verb) % len(TIMES)]
    number = rng.randrange(2, 99)
    return f"At {when} the {SUBJECTS[subject]} {VERBS[verb]} {number} of the {OBJECTS[thing]}s in the {PLACES[place]}, then {number * 2} more."


def texts(count: int, seed: int) -> list:
    rng = random.Random(seed)
    return [" ".join(sentence(rng) for _ in range(8)) for _ in range(count)]


def make_tokenizer(corpus: list) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    core.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=512, special_tokens=["<unk>", "<s>", "</s>"], initial_alphabet=alphabet, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>")


def train(tokenizer, corpus: list, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(SEED)
    config = LlamaConfig(hidden_size=256, intermediate_size=512, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
                         vocab_size=512, max_position_embeddings=512, tie_word_embeddings=tied, bos_token_id=1, eos_token_id=2, pad_token_id=2)  # fmt: skip
    model = LlamaForCausalLM(config)
    ids = torch.tensor([t for text in corpus for t in tokenizer(text)["input_ids"] + [2]])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        starts = torch.randint(0, len(ids) - LENGTH, (BATCH,))
        batch = torch.stack([ids[i : i + LENGTH] for i in starts])
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    print(f"tiny_llama: loss {loss.item():.3f} after {STEPS} steps")
    return model.to(torch.bfloat16).eval()


def make(folder: pathlib.Path, tied: bool = False) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    corpus = texts(400, SEED)
    tokenizer = make_tokenizer(corpus)
    train(tokenizer, corpus, tied).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for name, seed, count in (("calib", SEED + 1, 64), ("heldout", SEED + 2, 16)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(count, seed)))


if __name__ == "__main__":
    make(pathlib.Path(sys.argv[1]))
