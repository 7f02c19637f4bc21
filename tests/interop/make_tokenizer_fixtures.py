"""Trains the small tokenizers of tests/fixtures/tokenizers and writes what the references give.

Usage: python make_tokenizer_fixtures.py TOKENIZE_TOOL [SMOLLM2.gguf]
With the GGUF file of SmolLM2 also writes smollm2_expected.json (needs the package gguf).
Needs: tokenizers 0.23.3, sentencepiece 0.2.3 (other versions may train other vocabularies)
The texts come from tests/data/corpus.cpp: no text of others is used.
"""
import json
import pathlib
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers
from tokenizers import pre_tokenizers, processors, trainers

from tokenizer_reference import corpus, gguf_reference, ids_sha256, reference

ROOT = pathlib.Path(__file__).resolve().parents[1] / "fixtures" / "tokenizers"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
SMOLLM_SPECIAL = ("<|endoftext|> <|im_start|> <|im_end|> <repo_name> <reponame> <file_sep> <filename> "
                  "<gh_stars> <issue_start> <issue_comment> <issue_closed> <jupyter_start> "
                  "<jupyter_text> <jupyter_code> <jupyter_output> <jupyter_script> <empty_output>").split()


def special(*texts):
    return [AddedToken(t, special=True, normalized=False) for t in texts]


def train_byte_level(texts, size, pre_tokenizer, specials, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizer
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=special(*specials),
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                                  show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def byte_fallback_bpe(texts, size):
    """A Llama-2 style vocabulary: <unk> <s> </s>, the 256 bytes, then pieces spelt with U+2581."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="always")
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, limit_alphabet=300,
                                                           show_progress=False))
    model = json.loads(trained.to_str())["model"]
    first = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    pieces = first + sorted(model["vocab"], key=model["vocab"].get)
    return Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)},
                                [tuple(m) for m in model["merges"]], unk_token="<unk>",
                                fuse_unk=True, byte_fallback=True))


def with_bos(tokenizer, bos, byte_level):
    template = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B",
                                             special_tokens=[(bos, tokenizer.token_to_id(bos))])
    tokenizer.post_processor = (
        processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
        if byte_level else template)


def make_hf(texts):
    gpt2 = train_byte_level(texts, 2200, pre_tokenizers.ByteLevel(add_prefix_space=False),
                            ["<|endoftext|>"])
    gpt2.post_processor = processors.ByteLevel(trim_offsets=False)
    yield "gpt2", gpt2, {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>",
                         "unk_token": "<|endoftext|>"}

    prefixed = train_byte_level(texts, 900, pre_tokenizers.ByteLevel(add_prefix_space=True), ["<s>"])
    yield "gpt2_prefix_space", prefixed, {"eos_token": "<s>"}

    smollm = train_byte_level(
        texts, 2200, pre_tokenizers.Sequence([pre_tokenizers.Digits(True),
                                              pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        SMOLLM_SPECIAL)
    yield "smollm", smollm, {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>",
                             "pad_token": "<|im_end|>", "unk_token": "<|endoftext|>"}

    llama3 = train_byte_level(
        texts, 2200, pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"], ignore_merges=True)
    with_bos(llama3, "<|begin_of_text|>", True)
    yield "llama3", llama3, {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>",
                             "chat_template": "{{ bos_token }}"}

    qwen2 = train_byte_level(
        texts, 1500, pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(QWEN2), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]),
        ["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    qwen2.normalizer = normalizers.NFC()
    yield "qwen2", qwen2, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}

    llama2 = byte_fallback_bpe(texts, 2000)
    llama2.normalizer = normalizers.Sequence(
        [normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    llama2.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(),
                                        decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    llama2.add_special_tokens(special("<unk>", "<s>", "</s>"))
    with_bos(llama2, "<s>", False)
    yield "llama2", llama2, {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

    # What the others do not use: Metaspace, every flag of added tokens, odd behaviours of Split.
    metaspace = byte_fallback_bpe(texts, 1200)
    metaspace.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(r"[.,]+"), "merged_with_previous"),
        pre_tokenizers.Split("-", "merged_with_next"),
        pre_tokenizers.Split(Regex(r"[=#]+"), "contiguous", invert=True),
        pre_tokenizers.Split(";", "removed"),
        pre_tokenizers.Digits(False),
        pre_tokenizers.Metaspace(replacement="\u2581", prepend_scheme="first", split=True)])
    metaspace.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"\t+"), " "), normalizers.NFC()])
    metaspace.decoder = decoders.Metaspace(replacement="\u2581", prepend_scheme="first")
    metaspace.add_special_tokens(special("<unk>", "<s>", "</s>"))
    metaspace.add_tokens([AddedToken("[strip]", lstrip=True, rstrip=True, normalized=False),
                          AddedToken("wordtok", single_word=True, normalized=False),
                          AddedToken("Norm", normalized=True), AddedToken("Norm no"),
                          AddedToken("caf\u00e9", normalized=True)])
    with_bos(metaspace, "<s>", False)
    yield "metaspace", metaspace, {"bos_token": "<s>", "eos_token": "</s>"}


def make_sentencepiece(texts):
    lines = ROOT / "lines.txt"
    lines.write_text("\n".join(line for t in texts for line in t.splitlines() if line.strip()))
    common = dict(input=str(lines), minloglevel=2, num_threads=1, character_coverage=0.999,
                  max_sentence_length=100000, unk_id=0, bos_id=1, eos_id=2, pad_id=-1)
    added = {"added_tokens_decoder": {"1500": {"content": "<|im_start|>", "special": True},
                                      "1501": {"content": "<|im_end|>", "special": True}}}
    for name, options, config in (
            ("sp_bpe", dict(model_type="bpe", vocab_size=1500, byte_fallback=True, split_digits=True,
                            normalization_rule_name="identity", remove_extra_whitespaces=False,
                            allow_whitespace_only_pieces=True, user_defined_symbols=["<tool>"]), added),
            ("sp_unigram", dict(model_type="unigram", vocab_size=1200), {})):
        folder = ROOT / name
        folder.mkdir(exist_ok=True)
        sentencepiece.SentencePieceTrainer.train(model_prefix=str(folder / "tokenizer"), **options,
                                                 **common)
        (folder / "tokenizer.vocab").unlink()
        yield name, dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True,
                         **config)
    lines.unlink()


def main(tool, gguf=None):
    texts = corpus(tool, "corpus")
    training = texts[: len(texts) // 3]
    names = []
    for name, tokenizer, config in make_hf(training):
        folder = ROOT / name
        folder.mkdir(exist_ok=True)
        tree = json.loads(tokenizer.to_str())
        if name in ("smollm", "gpt2"):  # files written before 2024 hold merges as texts
            tree["model"]["merges"] = [" ".join(m) for m in tree["model"]["merges"]]
        indent = 2 if name == "llama3" else None
        (folder / "tokenizer.json").write_text(json.dumps(tree, ensure_ascii=name == "qwen2",
                                                          indent=indent))
        (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        names.append(name)
    for name, config in make_sentencepiece(training):
        (ROOT / name / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
        names.append(name)

    random, tricky = corpus(tool, "random"), corpus(tool, "tricky")
    for name in names:
        write_expected(ROOT / name / "expected.json", reference(ROOT / name), texts, random, tricky)
    if gguf:
        write_expected(ROOT / "smollm2_expected.json", gguf_reference(gguf), texts, random, tricky)


def write_expected(path, known, texts, random, tricky):
    cases = [{"text": t, "ids": i} for t, i in zip(tricky, known.encode(tricky))]
    if known.decode:
        for case in cases:
            case["decoded"] = known.decode(case["ids"])
    lines = ",\n".join(json.dumps(c, separators=(",", ":")) for c in cases)
    sums = {"corpus_sha256": ids_sha256(known.encode(texts)),
            "random_sha256": ids_sha256(known.encode(random))}
    path.write_text(json.dumps(sums)[:-1] + ',\n"cases": [\n' + lines + "\n]}\n")
    print(path.parent.name, path.name, sums)


main(*sys.argv[1:])
