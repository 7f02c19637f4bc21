#include "data/jinja/value.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <type_traits>

#include "data/utf8.h"

namespace qlora::data::jinja {
namespace {

constexpr int64_t kItemBytes = 40;  // a value in a list, about
constexpr size_t kIndexed = 12;     // shorter dictionaries are searched from end to end

template <class... Cases>
struct Overload : Cases... {
  using Cases::operator()...;
};
template <class... Cases>
Overload(Cases...) -> Overload<Cases...>;

void check_size(int depth, int64_t bytes) {
  if (depth > kMaxValueDepth) {
    throw Fault(fmt::format("a value nests deeper than {} levels", kMaxValueDepth));
  }
  if (bytes > kMaxValueBytes) {
    throw Fault(fmt::format("a value grows beyond {} bytes", kMaxValueBytes));
  }
}

Sequence sequence_of(std::vector<Value> items) {
  Sequence out;
  for (const Value& item : items) {
    out.depth = std::max(out.depth, 1 + item.depth());
    out.bytes += kItemBytes + item.bytes();
  }
  check_size(out.depth, out.bytes);
  out.items = std::move(items);
  return out;
}

}  // namespace

// Dict

size_t Dict::index_of(const Value& key) const {
  if (entries_.size() < kIndexed) {
    const auto at = std::find_if(entries_.begin(), entries_.end(),
                                 [&](const auto& entry) { return equal(entry.first, key); });
    return static_cast<size_t>(at - entries_.begin());
  }
  const auto [begin, end] = index_.equal_range(hash(key));
  for (auto at = begin; at != end; ++at) {
    if (equal(entries_[at->second].first, key)) return at->second;
  }
  return entries_.size();
}

void Dict::set(Value key, Value value) {
  const size_t key_hash = hash(key);  // refuses lists also while the dictionary is short
  const size_t at = index_of(key);
  depth_ = std::max({depth_, 1 + key.depth(), 1 + value.depth()});
  bytes_ += 2 * kItemBytes + key.bytes() + value.bytes();
  check_size(depth_, bytes_);
  if (at < entries_.size()) {
    entries_[at].second = std::move(value);
    return;
  }
  entries_.emplace_back(std::move(key), std::move(value));
  if (entries_.size() == kIndexed) {
    for (size_t i = 0; i < entries_.size(); ++i) index_.emplace(hash(entries_[i].first), i);
  } else if (entries_.size() > kIndexed) {
    index_.emplace(key_hash, entries_.size() - 1);
  }
}

const Value* Dict::find(const Value& key) const {
  const size_t at = index_of(key);
  return at < entries_.size() ? &entries_[at].second : nullptr;
}

const Value* Dict::find_text(std::string_view key) const {
  if (entries_.size() >= kIndexed) return find(Value(std::string(key)));
  for (const auto& [name, value] : entries_) {
    if (name.is_text() && name.text() == key) return &value;
  }
  return nullptr;
}

// Value

Value::Value(std::string text, bool is_safe) {
  check_size(1, static_cast<int64_t>(text.size()));
  data_ = std::make_shared<const TextData>(TextData{std::move(text), is_safe});
}

Value Value::undefined(std::string why) {
  return Value(Data(Undefined{std::make_shared<const std::string>(std::move(why))}));
}

Value Value::list(std::vector<Value> items) {
  return Value(Data(std::make_shared<const Sequence>(sequence_of(std::move(items)))));
}

Value Value::tuple(std::vector<Value> items) {
  Value out = list(std::move(items));
  out.is_tuple_ = true;
  return out;
}

Value Value::dict(Dict dict) {
  return Value(Data(std::make_shared<const Dict>(std::move(dict))));
}

Value Value::iterator(std::vector<Value> items) {
  const Sequence all = sequence_of(std::move(items));
  return Value(Data(std::make_shared<Iterator>(Iterator{all.items, 0, all.bytes})));
}

Value Value::view(const char* name, std::vector<Value> items) {
  return Value(Data(std::make_shared<const View>(View{name, sequence_of(std::move(items))})));
}

Value Value::function(std::string name, std::function<Value(Interpreter&, Arguments&)> call) {
  return Value(Data(std::make_shared<const Function>(Function{std::move(name), std::move(call)})));
}

bool Value::to_int(int64_t& n) const {
  if (is_int()) n = std::get<int64_t>(data_);
  if (is_bool()) n = std::get<bool>(data_);
  return is_int() || is_bool();
}

bool Value::to_double(double& x) const {
  int64_t n = 0;
  if (is_float()) x = std::get<double>(data_);
  if (to_int(n)) x = static_cast<double>(n);
  return is_number();
}

bool Value::truth() const {
  return std::visit(
      Overload{[](const Undefined&) { return false; }, [](std::monostate) { return false; },
               [](bool b) { return b; }, [](int64_t n) { return n != 0; },
               [](double x) { return x != 0; },
               [](const std::shared_ptr<const TextData>& t) { return !t->text.empty(); },
               [](const std::shared_ptr<const Sequence>& s) { return !s->items.empty(); },
               [](const std::shared_ptr<const Range>& r) { return !r->numbers.items.empty(); },
               [](const std::shared_ptr<const View>& v) { return !v->items.items.empty(); },
               [](const std::shared_ptr<const Dict>& d) { return !d->entries().empty(); },
               [](const auto&) { return true; }},
      data_);
}

const char* Value::type_name() const {
  return std::visit(Overload{[](const Undefined&) { return "Undefined"; },
                             [](std::monostate) { return "NoneType"; }, [](bool) { return "bool"; },
                             [](int64_t) { return "int"; }, [](double) { return "float"; },
                             [](const std::shared_ptr<const TextData>&) { return "str"; },
                             [this](const std::shared_ptr<const Sequence>&) {
                               return is_tuple_ ? "tuple" : "list";
                             },
                             [](const std::shared_ptr<const Range>&) { return "range"; },
                             [](const std::shared_ptr<const View>& v) { return v->name; },
                             [](const std::shared_ptr<Iterator>&) { return "generator"; },
                             [](const std::shared_ptr<const Dict>&) { return "dict"; },
                             [](const std::shared_ptr<Namespace>&) { return "Namespace"; },
                             [](const std::shared_ptr<Loop>&) { return "LoopContext"; },
                             [](const std::shared_ptr<const Function>&) { return "function"; }},
                    data_);
}

int Value::depth() const {
  if (const auto* s = as<const Sequence>()) return s->depth;
  if (const auto* d = as<const Dict>()) return d->depth();
  if (const auto* v = as<const View>()) return v->items.depth;
  return 1;
}

int64_t Value::bytes() const {
  if (const auto* t = as<const TextData>()) return static_cast<int64_t>(t->text.size());
  if (const auto* s = as<const Sequence>()) return s->bytes;
  if (const auto* d = as<const Dict>()) return d->bytes();
  if (const auto* v = as<const View>()) return v->items.bytes;
  if (const auto* r = as<const Range>()) return r->numbers.bytes;
  if (const auto* i = as<Iterator>()) return i->bytes;
  return 0;
}

int64_t Value::own_bytes() const {
  size_t count = 0;
  if (const auto* t = as<const TextData>()) return static_cast<int64_t>(t->text.size());
  if (const auto* s = as<const Sequence>()) count = s->items.size();
  if (const auto* d = as<const Dict>()) count = 2 * d->entries().size();
  if (const auto* v = as<const View>()) count = v->items.items.size();
  if (const auto* r = as<const Range>()) count = r->numbers.items.size();
  if (const auto* i = as<Iterator>()) count = i->items.size();
  return kItemBytes * static_cast<int64_t>(count);
}

// Comparisons

namespace {

bool equal_items(const std::vector<Value>& a, const std::vector<Value>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
}

bool equal_dicts(const Dict& a, const Dict& b) {
  if (a.entries().size() != b.entries().size()) return false;
  for (const auto& [key, value] : a.entries()) {
    const Value* other = b.find(key);
    if (!other || !equal(value, *other)) return false;
  }
  return true;
}

/// -1, 0, 1, or 2 where one of them is not a number. An integer and a float compare exactly.
int order_numbers(const Value& a, const Value& b) {
  int64_t m = 0, n = 0;
  double x = 0, y = 0;
  if (a.to_int(m) && b.to_int(n)) return m < n ? -1 : m > n;
  if (!a.to_double(x) || !b.to_double(y) || std::isnan(x) || std::isnan(y)) return 2;
  const auto exact = [](int64_t whole, double real) {
    if (real >= 9223372036854775808.0) return -1;
    if (real < -9223372036854775808.0) return 1;
    const double floor = std::floor(real);
    const auto part = static_cast<int64_t>(floor);
    return whole < part ? -1 : whole > part ? 1 : real > floor ? -1 : 0;
  };
  if (a.to_int(m)) return exact(m, y);
  if (b.to_int(n)) return -exact(n, x);
  return x < y ? -1 : x > y;
}

}  // namespace

bool equal(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == 0;
  if (a.is_undefined() || b.is_undefined()) return a.is_undefined() && b.is_undefined();
  if (a.is_none() || b.is_none()) return a.is_none() && b.is_none();
  if (a.is_text() && b.is_text()) return a.text() == b.text();
  if (const auto* s = a.as<const Sequence>(), *t = b.as<const Sequence>(); s && t) {
    return a.is_tuple() == b.is_tuple() && (s == t || equal_items(s->items, t->items));
  }
  if (const auto* d = a.as<const Dict>(), *e = b.as<const Dict>(); d && e) {
    return d == e || equal_dicts(*d, *e);
  }
  if (const auto* r = a.as<const Range>(), *q = b.as<const Range>(); r && q) {
    return equal_items(r->numbers.items, q->numbers.items);
  }
  return a.data().index() == b.data().index() && a.data() == b.data();  // the same object
}

bool less(const Value& a, const Value& b) {
  if (a.is_number() && b.is_number()) return order_numbers(a, b) == -1;
  if (a.is_text() && b.is_text()) return a.text() < b.text();  // UTF-8 orders as code points do
  const auto *s = a.as<const Sequence>(), *t = b.as<const Sequence>();
  if (s && t && a.is_tuple() == b.is_tuple()) {
    const size_t common = std::min(s->items.size(), t->items.size());
    for (size_t i = 0; i < common; ++i) {
      if (!equal(s->items[i], t->items[i])) return less(s->items[i], t->items[i]);
    }
    return s->items.size() < t->items.size();
  }
  for (const Value* side : {&a, &b}) {
    if (const auto* gap = std::get_if<Undefined>(&side->data())) throw Fault(*gap->why);
  }
  throw Fault(
      fmt::format("'<' and its like do not go between {} and {}", a.type_name(), b.type_name()));
}

size_t hash(const Value& value) {
  double x = 0;
  int64_t n = 0;
  if (value.to_int(n)) return std::hash<int64_t>()(n);
  if (value.to_double(x)) {
    const bool is_whole = x == std::floor(x) && std::abs(x) < 9e18;
    return is_whole ? std::hash<int64_t>()(static_cast<int64_t>(x)) : std::hash<double>()(x);
  }
  if (value.is_text()) return std::hash<std::string>()(value.text());
  if (value.is_tuple()) {
    size_t sum = 1;
    for (const Value& item : value.as<const Sequence>()->items) {
      sum = std::rotl(sum, 7) * 0x9E3779B97F4A7C15u + hash(item);
    }
    return sum;
  }
  if (value.is_list() || value.as<const Dict>() || value.as<const View>()) {
    throw Fault(fmt::format("a {} cannot be a key", value.type_name()));
  }
  return value.data().index();
}

// Walking through

std::vector<Value> items_of(const Value& value) {
  if (const auto* s = value.as<const Sequence>()) return s->items;
  if (const auto* r = value.as<const Range>()) return r->numbers.items;
  if (const auto* v = value.as<const View>()) return v->items.items;
  std::vector<Value> items;
  if (const auto* d = value.as<const Dict>()) {
    for (const auto& entry : d->entries()) items.push_back(entry.first);
    return items;
  }
  if (value.is_text()) {
    const std::string& text = value.text();
    for (size_t at = 0; at < text.size();) {
      const size_t size = character_bytes(text[at]);
      items.emplace_back(text.substr(at, size));
      at += size;
    }
    return items;
  }
  if (auto* i = value.as<Iterator>()) {
    items.assign(i->items.begin() + static_cast<int64_t>(i->at), i->items.end());
    i->at = i->items.size();
    return items;
  }
  if (value.is_undefined()) return items;
  throw Fault(fmt::format("a {} cannot be walked through", value.type_name()));
}

int64_t length_of(const Value& value) {
  if (value.is_text()) {
    const std::string& text = value.text();
    return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
  }
  if (const auto* s = value.as<const Sequence>()) return static_cast<int64_t>(s->items.size());
  if (const auto* r = value.as<const Range>()) return static_cast<int64_t>(r->numbers.items.size());
  if (const auto* v = value.as<const View>()) return static_cast<int64_t>(v->items.items.size());
  if (const auto* d = value.as<const Dict>()) return static_cast<int64_t>(d->entries().size());
  if (const auto* l = value.as<Loop>()) return static_cast<int64_t>(l->items.size());
  if (value.is_undefined()) return 0;
  throw Fault(fmt::format("a {} has no length", value.type_name()));
}

}  // namespace qlora::data::jinja
