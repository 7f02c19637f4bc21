#include "data/bpe_encoder.h"

#include <algorithm>
#include <cstring>
#include <queue>

#include "data/utf8.h"

namespace qlora::data {

// Without unk, a character that has no piece vanishes, and its neighbours meet: no cut is sure
// then.
Bpe::Encoder::Encoder(const Bpe& bpe)
    : bpe_(bpe),
      cuts_(bpe.seams_.is_usable() &&
            (bpe.rules_.byte_level ? bpe.has_all_bytes_ : bpe.rules_.unk.has_value())),
      cache_(kCacheSlots) {}

template <class Make>
void Bpe::Encoder::remember(std::string_view text, std::vector<int32_t>& ids, const Make& make) {
  if (text.size() > sizeof(Slot::key)) return make();
  const uint64_t hash = hash_bytes(text);
  Slot& slot = cache_[hash & (kCacheSlots - 1)];
  if (slot.hash == hash && slot.key_bytes == text.size() &&
      std::memcmp(slot.key, text.data(), text.size()) == 0) {
    ids.insert(ids.end(), slot.ids, slot.ids + slot.id_count);
    return;
  }
  const size_t before = ids.size();
  make();
  const size_t count = ids.size() - before;
  if (count > std::size(slot.ids)) return;
  slot.hash = hash;
  slot.key_bytes = static_cast<uint8_t>(text.size());
  slot.id_count = static_cast<uint8_t>(count);
  std::memcpy(slot.key, text.data(), text.size());
  std::copy(ids.begin() + static_cast<int64_t>(before), ids.end(), slot.ids);
}

void Bpe::Encoder::encode(std::string_view word, std::vector<int32_t>& ids) {
  remember(word, ids, [&] { encode_uncached(word, ids); });
}

void Bpe::Encoder::encode_uncached(std::string_view word, std::vector<int32_t>& ids) {
  if (cuts_) return encode_in_parts(word, ids);
  if (bpe_.rules_.ignore_merges) {
    if (const auto id = bpe_.vocabulary_.find(spelling(word))) {
      ids.push_back(*id);
      return;
    }
  }
  symbols_.clear();
  if (bpe_.rules_.byte_level && bpe_.has_all_bytes_) {
    for (const char c : word) symbols_.push_back(bpe_.byte_ids_[static_cast<uint8_t>(c)]);
  } else {
    split_characters(spelling(word));
  }
  merge(ids);
}

/// Cuts where no merge crosses (data/bpe_seams.h), and at characters without a piece.
void Bpe::Encoder::encode_in_parts(std::string_view word, std::vector<int32_t>& ids) {
  size_t begin = 0;  // of the part whose symbols are gathered
  symbols_.clear();
  const auto finish_part = [&](size_t end) {
    if (begin == end) return;
    remember(word.substr(begin, end - begin), ids, [&] { merge(ids); });
    symbols_.clear();
  };
  for (size_t at = 0; at < word.size();) {
    const size_t from = at;
    const int32_t id = bpe_.rules_.byte_level ? bpe_.byte_ids_[static_cast<uint8_t>(word[at++])]
                                              : bpe_.characters_.find(next_character(word, at));
    if (id < 0) {
      finish_part(from);
      add_unknown(word.substr(from, at - from), ids);
      begin = at;
      continue;
    }
    if (!symbols_.empty() && bpe_.seams_.may_cut(symbols_.back(), id)) {
      finish_part(from);
      begin = from;
    }
    flush_unknown(ids);
    symbols_.push_back(id);
  }
  finish_part(word.size());
  flush_unknown(ids);
}

/// The word as the vocabulary spells it.
std::string_view Bpe::Encoder::spelling(std::string_view word) {
  if (!bpe_.rules_.byte_level) return word;
  spelling_.clear();
  for (const char c : word) append_utf8(spelling_, byte_level_character(static_cast<uint8_t>(c)));
  return spelling_;
}

/// Bytes, or unk, or nothing. As in the reference, bytes do not flush a waiting unk.
void Bpe::Encoder::add_unknown(std::string_view character, std::vector<int32_t>& out) {
  const BpeRules& rules = bpe_.rules_;
  const auto byte_id = [&](char c) { return bpe_.fallback_ids_[static_cast<uint8_t>(c)]; };
  if (rules.byte_fallback &&
      std::all_of(character.begin(), character.end(), [&](char c) { return byte_id(c) >= 0; })) {
    for (const char c : character) out.push_back(byte_id(c));
  } else if (rules.unk) {
    if (unk_waits_ && !rules.fuse_unk) out.push_back(*rules.unk);
    unk_waits_ = true;
  }
}

void Bpe::Encoder::flush_unknown(std::vector<int32_t>& out) {
  if (unk_waits_) out.push_back(*bpe_.rules_.unk);
  unk_waits_ = false;
}

/// One symbol for each character.
void Bpe::Encoder::split_characters(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    const size_t from = at;
    const int32_t id = bpe_.characters_.find(next_character(text, at));
    if (id < 0) {
      add_unknown(text.substr(from, at - from), symbols_);
      continue;
    }
    flush_unknown(symbols_);
    symbols_.push_back(id);
  }
  flush_unknown(symbols_);
}

void Bpe::Encoder::merge(std::vector<int32_t>& ids) {
  symbols_.size() <= kShortWord ? merge_by_scan(ids) : merge_by_heap(ids);
}

/// Looks at all pairs again after every merge: quickest for the usual short words.
void Bpe::Encoder::merge_by_scan(std::vector<int32_t>& ids) {
  size_t count = symbols_.size();
  std::array<const Pair*, kShortWord> pairs;  // pairs[i]: symbols i and i + 1
  for (size_t i = 0; i + 1 < count; ++i) pairs[i] = bpe_.find_pair(symbols_[i], symbols_[i + 1]);
  while (count > 1) {
    size_t best = count;
    int32_t best_rank = INT32_MAX;
    for (size_t i = 0; i + 1 < count; ++i) {
      if (pairs[i] && pairs[i]->rank < best_rank) {
        best_rank = pairs[i]->rank;
        best = i;
      }
    }
    if (best == count) break;
    symbols_[best] = pairs[best]->result;
    --count;
    for (size_t i = best + 1; i < count; ++i) {
      symbols_[i] = symbols_[i + 1];
      pairs[i - 1] = pairs[i];
    }
    if (best > 0) pairs[best - 1] = bpe_.find_pair(symbols_[best - 1], symbols_[best]);
    if (best + 1 < count) pairs[best] = bpe_.find_pair(symbols_[best], symbols_[best + 1]);
  }
  ids.insert(ids.end(), symbols_.begin(), symbols_.begin() + static_cast<int64_t>(count));
}

/// A linked list of symbols and a heap of candidate merges: n log n for words of any length.
void Bpe::Encoder::merge_by_heap(std::vector<int32_t>& ids) {
  const auto count = static_cast<int64_t>(symbols_.size());
  struct Link {
    int64_t previous, next;
  };
  struct Candidate {
    int32_t rank;
    int64_t place;
    uint64_t key;  // the pair that stood there; stale once it has changed
    bool operator<(const Candidate& o) const {  // the top of the heap is merged next
      return rank != o.rank ? rank > o.rank : place > o.place;
    }
  };
  std::vector<Link> links(symbols_.size());
  for (int64_t i = 0; i < count; ++i) links[i] = {i - 1, i + 1 < count ? i + 1 : -1};
  std::priority_queue<Candidate> heap;
  const auto offer = [&](int64_t place) {
    const int64_t next = links[place].next;
    if (next < 0) return;
    if (const Pair* pair = bpe_.find_pair(symbols_[place], symbols_[next])) {
      heap.push({pair->rank, place, pair->key});
    }
  };
  for (int64_t i = 0; i + 1 < count; ++i) offer(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    if (symbols_[top.place] < 0) continue;  // swallowed by its left neighbour
    const int64_t next = links[top.place].next;
    if (next < 0 || pair_key(symbols_[top.place], symbols_[next]) != top.key) continue;
    symbols_[top.place] = bpe_.find_pair(symbols_[top.place], symbols_[next])->result;
    symbols_[next] = -1;
    links[top.place].next = links[next].next;
    if (links[next].next >= 0) links[links[next].next].previous = top.place;
    if (links[top.place].previous >= 0) offer(links[top.place].previous);
    offer(top.place);
  }
  for (int64_t i = 0; i >= 0; i = links[i].next) ids.push_back(symbols_[i]);
}

}  // namespace qlora::data
