"""Trains a tokenizer with each family's options on the spot, and compares the ids with the libraries'.

Usage: python trained_tokenizers.py TOKENIZE_TOOL [--keep FOLDER]
The texts to train on and to compare with are those of tests/data/corpus.cpp and 1 MB of mixed text (Python's own
sources and documentation); 100,000 random strings come from the corpus too. A sentencepiece model is written in both
forms, tokenizer.model and tokenizer.json, and the program has to give the same ids for both.
"""
import argparse
import json
import pathlib
import struct
import sys
import sysconfig
import tempfile

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import SentencePieceExtractor

from tokenizer_parity import compare
from tokenizer_reference import corpus, records, reference, run_tool

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}"
          r"\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPACE = "\u2581"


def mixed_text(most=1_000_000):
    """Stretches of Python's standard library: code, English, and what its tests hold of Unicode."""
    texts, size = [], 0
    root = pathlib.Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.glob("*.py")) + sorted(root.glob("encodings/*.py")) + sorted(root.glob("pydoc_data/*.py")):
        text = path.read_text(encoding="utf-8", errors="ignore")
        for at in range(0, len(text), 4000):
            if size >= most:
                return texts
            texts.append(text[at : at + 4000])
            size += len(texts[-1])
    return texts


def special(*texts):
    return [AddedToken(t, special=True, normalized=False) for t in texts]


def byte_level(texts, steps, specials, size=8000, normalizer=None, **model):
    tokenizer = Tokenizer(models.BPE(**model))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=size, special_tokens=special(*specials), show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return tokenizer


def split(pattern):
    return [pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]


def byte_level_families(texts):
    qwen = byte_level(texts, split(LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")), ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
                      normalizer=normalizers.NFC())
    qwen.add_tokens([AddedToken("<think>", normalized=False), AddedToken("</think>", normalized=False)])
    yield "llama3", byte_level(texts, split(LLAMA3), ["<|begin_of_text|>", "<|eot_id|>"], ignore_merges=True)
    yield "qwen", qwen
    yield "mistral_tekken", byte_level(texts, split(TEKKEN), ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"], ignore_merges=True)
    yield "smollm", byte_level(texts, [pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)], ["<|endoftext|>"])
    odd = byte_level(texts, [pre_tokenizers.Punctuation("merged_with_previous"), pre_tokenizers.ByteLevel(add_prefix_space=True)], ["<s>"],
                     normalizer=normalizers.Sequence([normalizers.NFKD(), normalizers.Lowercase(), normalizers.Strip(True, False)]))
    yield "odd_byte_level", odd


def other_words(texts):
    """BPE of characters over the normalizers and pre-tokenizers that no family above uses."""
    for name, normalizer, pre in (
            ("nfkc_whitespace", normalizers.NFKC(), pre_tokenizers.Whitespace()),
            ("nfd_bert", normalizers.NFD(), pre_tokenizers.BertPreTokenizer()),
            ("strip_spaces", normalizers.Strip(), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation("isolated")])),
            ("lower_delimiter", normalizers.Lowercase(), pre_tokenizers.CharDelimiterSplit("e"))):
        tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, pre
        tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=3000, special_tokens=special("<unk>", "<s>"), show_progress=False,
                                                                 limit_alphabet=800))
        yield name, tokenizer


def train_sentencepiece(folder, texts, **options):
    lines = folder / "lines.txt"
    lines.write_text("\n".join(line for t in texts for line in t.splitlines() if line.strip()))
    common = dict(minloglevel=2, num_threads=1, character_coverage=0.999, max_sentence_length=100000)
    sentencepiece.SentencePieceTrainer.train(input=str(lines), model_prefix=str(folder / "tokenizer"), **common, **options)
    lines.unlink()
    (folder / "tokenizer.vocab").unlink()


def json_of_bpe(folder, prepends, specials):
    """The tokenizer.json that transformers makes of a sentencepiece BPE model (Llama 2, Gemma)."""
    given = SentencePieceExtractor(str(folder / "tokenizer.model")).extract(models.BPE)
    tokenizer = Tokenizer(models.BPE(given["vocab"], given["merges"], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), replace]) if prepends else replace
    if not prepends:
        tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    strip = [decoders.Strip(" ", 1, 0)] if prepends else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    symbols = [p.piece for p in sentencepiece_pieces(folder) if p.type == 4 and p.piece not in specials]
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in symbols])
    tokenizer.add_special_tokens(special(*specials))
    return tokenizer


def sentencepiece_pieces(folder):
    return SentencePieceExtractor(str(folder / "tokenizer.model")).proto.pieces


def json_of_unigram(folder, specials):
    given = SentencePieceExtractor(str(folder / "tokenizer.model")).extract(models.Unigram)
    tokenizer = Tokenizer(models.Unigram([(p, s) for p, s in given["vocab"]], unk_id=0, byte_fallback=False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    tokenizer.add_special_tokens(special(*specials))
    return tokenizer


def sentencepiece_families(root, texts):
    plain = dict(normalization_rule_name="identity", remove_extra_whitespaces=False, allow_whitespace_only_pieces=True,
                 split_digits=True, byte_fallback=True)
    for name, options, make, specials in (
            ("llama2", dict(model_type="bpe", vocab_size=6000, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, **plain),
             lambda f, s: json_of_bpe(f, True, s), ["<unk>", "<s>", "</s>"]),
            ("gemma", dict(model_type="bpe", vocab_size=6000, pad_id=0, eos_id=1, bos_id=2, unk_id=3, add_dummy_prefix=False,
                           pad_piece="<pad>", eos_piece="<eos>", bos_piece="<bos>",
                           user_defined_symbols=["<start_of_turn>", "<end_of_turn>", "\n\n", "\t"], **plain),
             lambda f, s: json_of_bpe(f, False, s), ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]),
            ("unigram", dict(model_type="unigram", vocab_size=4000, unk_id=0, bos_id=1, eos_id=2, pad_id=-1,
                             normalization_rule_name="identity", remove_extra_whitespaces=False),
             json_of_unigram, ["<unk>", "<s>", "</s>"])):
        folder = root / name
        folder.mkdir()
        try:
            train_sentencepiece(folder, texts, **options)
        except RuntimeError:  # the symbols of a line break are not for every release
            options["user_defined_symbols"] = ["<start_of_turn>", "<end_of_turn>"]
            train_sentencepiece(folder, texts, **options)
        yield name, make(folder, specials), folder / "tokenizer.model"


def same_ids(tool, name, model, text_form, texts):
    """The program's ids of a tokenizer.model against those of its tokenizer.json.

    Left out, as docs/data.md lists: texts that spell a special token (what follows one gets a prefix space in the one
    form and not in the other), and for Unigram texts that begin with a space (Metaspace adds no second one).
    """
    specials = [p.piece for p in sentencepiece_pieces(model.parent) if p.type in (2, 3, 4)]
    is_unigram = name.startswith("unigram")
    texts = [t for t in texts if not any(s in t for s in specials if s.strip()) and not (is_unigram and t[:1] in (" ", SPACE))]
    encoded = [t.encode() for t in texts]
    ids = [[list(struct.unpack(f"<{len(r) // 4}i", r)) for r in records(run_tool(tool, ["encode", p, "nospecial"], encoded), 4)]
           for p in (model, text_form)]
    different = [(t, a, b) for t, a, b in zip(texts, *ids) if a != b]
    pieces = sentencepiece_pieces(model.parent)

    def is_tie(a, b):  # of a Unigram model: sentencepiece sums in single precision, the other form in double
        score = lambda ids: sum(pieces[i].score for i in ids)
        spelt = lambda ids: "".join(pieces[i].piece for i in ids)
        return is_unigram and spelt(a) == spelt(b) and abs(score(a) - score(b)) <= 1e-5 * abs(score(a))

    ties = sum(is_tie(a, b) for _, a, b in different)
    different = [d for d in different if not is_tie(d[1], d[2])]
    for text, a, b in different[:3]:
        print(f"  {text[:200]!r}\n    model {a[:40]}\n    json  {b[:40]}")
    print(f"{name}: tokenizer.model and tokenizer.json differ on {len(different)} of {len(texts)} texts"
          + (f", {ties} with ties broken otherwise" if ties else ""))
    return len(different)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("tool")
    parser.add_argument("--keep", type=pathlib.Path)
    args = parser.parse_args()
    sets = {kind: corpus(args.tool, kind) for kind in ("tricky", "corpus", "random")}
    sets["mixed"] = mixed_text()
    training = sets["corpus"][: len(sets["corpus"]) // 3] + sets["mixed"][::3]
    good = True
    with tempfile.TemporaryDirectory() as temporary:
        root = args.keep or pathlib.Path(temporary)
        root.mkdir(exist_ok=True)
        made = [(*pair, None) for pair in (*byte_level_families(training), *other_words(training))]
        for name, tokenizer, model in (*made, *sentencepiece_families(root, training)):
            folder = root / name / "json"
            folder.mkdir(parents=True)
            (folder / "tokenizer.json").write_text(tokenizer.to_str())
            for kind, texts in sets.items():
                good &= compare(args.tool, f"{name} {kind}", folder, reference(folder), texts)
            if model:
                for kind, texts in sets.items():
                    good &= same_ids(args.tool, f"{name} {kind}", model, folder, texts) == 0
    print("equal" if good else "DIFFERENT")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
