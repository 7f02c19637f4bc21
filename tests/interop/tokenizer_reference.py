"""What the reference libraries make of texts: shared by the fixture maker and the parity test."""
import hashlib
import json
import pathlib
import struct
import subprocess

import sentencepiece
import tokenizers


def records(data, unit):
    """Splits the tool's output: a uint32 count, then that many bytes (unit 1) or ids (unit 4)."""
    out, at = [], 0
    while at < len(data):
        (count,) = struct.unpack_from("<I", data, at)
        at += 4
        out.append(data[at : at + count * unit])
        at += count * unit
    return out


def run_tool(tool, args, texts=None, unit=1):
    given = b"".join(struct.pack("<I", len(t) // unit) + t for t in texts or [])
    done = subprocess.run([tool, *map(str, args)], input=given, stdout=subprocess.PIPE, check=True)
    return done.stdout


def corpus(tool, kind):
    return [t.decode() for t in records(run_tool(tool, ["corpus", kind]), 1)]


def ids_sha256(all_ids):
    """SHA-256 over count and ids of every text, as little-endian 32-bit numbers."""
    h = hashlib.sha256()
    for ids in all_ids:
        h.update(struct.pack(f"<I{len(ids)}i", len(ids), *ids))
    return h.hexdigest()


class HfReference:
    """A tokenizer.json through the library `tokenizers`."""

    def __init__(self, tokenizer):
        self.tokenizer = tokenizer
        model = json.loads(tokenizer.to_str())["model"]
        self.vocabulary = model["vocab"] if model["type"] == "Unigram" else None

    def encode(self, texts):
        return [e.ids for e in self.tokenizer.encode_batch(texts, add_special_tokens=True)]

    def decode(self, ids):
        return self.tokenizer.decode(ids, skip_special_tokens=False)

    def is_tie(self, ours, theirs):
        """Two cuts of a Unigram model with one score. The library reads a quarter of the scores one bit off (its JSON
        parser rounds in haste), which decides between sums that are equal otherwise."""
        if self.vocabulary is None:
            return False
        score = lambda ids: sum(self.vocabulary[i][1] for i in ids)
        spelt = lambda ids: "".join(self.vocabulary[i][0] for i in ids)
        return spelt(ours) == spelt(theirs) and abs(score(ours) - score(theirs)) <= 1e-12 * abs(score(theirs))


class SentencePieceReference:
    """A tokenizer.model through the library `sentencepiece`, bos in front.

    Special tokens in the text are Hugging Face's business: the texts here are cut at them, and what
    follows one is encoded without the prefix space, by a copy of the model that adds none.
    """

    def __init__(self, folder):
        model = (pathlib.Path(folder) / "tokenizer.model").read_bytes()
        self.whole = sentencepiece.SentencePieceProcessor(model_proto=model)
        self.unprefixed = sentencepiece.SentencePieceProcessor(model_proto=model + b"\x1a\x02\x18\x00")
        self.strips = self.unprefixed.encode(" a") == self.unprefixed.encode("a")
        self.special = {self.whole.id_to_piece(i): i for i in range(self.whole.get_piece_size())
                        if self.whole.is_control(i) or self.whole.is_unknown(i)}
        config = json.loads((pathlib.Path(folder) / "tokenizer_config.json").read_text())
        for i, token in config.get("added_tokens_decoder", {}).items():
            self.special[token["content"]] = int(i)

    def cut(self, text):
        while text:
            found = [(text.index(s), -len(s), s) for s in self.special if s in text]
            if not found:
                yield text, None
                return
            at, _, token = min(found)
            if at:
                yield text[:at], None
            yield token, self.special[token]
            text = text[at + len(token) :]

    def encode(self, texts):
        out = []
        for text in texts:
            ids, first = [self.whole.bos_id()], True
            for part, token in self.cut(text):
                if token is not None:
                    ids.append(token)
                else:
                    # A model that strips spaces would lose the one before a word.
                    prefix = first or (self.strips and part.startswith(" "))
                    ids += (self.whole if prefix else self.unprefixed).encode(part)
                first = False
            out.append(ids)
        return out

    decode = None

    def is_tie(self, ours, theirs):
        """Two segmentations of a unigram model with one score: releases from 0.2.2 on break such
        ties otherwise than 0.1.97 to 0.2.1, which agree with each other and with the C++ library."""
        score = lambda ids: sum(map(self.whole.get_score, ids))
        spelt = lambda ids: "".join(map(self.whole.id_to_piece, ids))
        return (len(ours) == len(theirs) and spelt(ours) == spelt(theirs)
                and abs(score(ours) - score(theirs)) <= 1e-6 * abs(score(theirs)))


def reference(folder):
    folder = pathlib.Path(folder)
    if (folder / "tokenizer.json").exists():
        return HfReference(tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")))
    return SentencePieceReference(folder)


def gguf_reference(path):
    """The byte-level BPE of a GGUF file (pre-tokenizer smollm or gpt-2) as the library builds it."""
    import gguf
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    fields = gguf.GGUFReader(str(path)).fields
    get = lambda key: fields["tokenizer.ggml." + key].contents()
    pieces, types = get("tokens"), get("token_type")
    merges = [tuple(m.split(" ")) for m in get("merges")]
    tokenizer = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, merges))
    digits = [pre_tokenizers.Digits(True)] if get("pre") == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        digits + [pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(
        [AddedToken(p, special=True, normalized=False) for p, t in zip(pieces, types) if t == 3])
    return HfReference(tokenizer)
