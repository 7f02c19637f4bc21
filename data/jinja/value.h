#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

namespace qlora::data::jinja {

/// A rule of the template was broken while it rendered. The interpreter adds name and line and
/// throws ValueError: nothing outside this folder sees a Fault.
class Fault : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

class Value;
class Interpreter;

/// Arguments of a call, a filter or a test.
struct Arguments {
  std::vector<Value> positional;
  std::vector<std::pair<std::string, Value>> named;
};

/// Most levels of lists within lists, and most bytes of a value with everything inside it: nothing
/// that walks through a value can run out of stack, or out of time on values that share parts.
inline constexpr int kMaxValueDepth = 100;
inline constexpr int64_t kMaxValueBytes = int64_t{64} << 20;

struct TextData {
  std::string text;      // valid UTF-8
  bool is_safe = false;  // went through the filter `safe`: "+" escapes what is added to it
};
struct Undefined {
  std::shared_ptr<const std::string> why;  // "'name' is undefined"
  bool operator==(const Undefined&) const { return true; }
};
struct Sequence {
  std::vector<Value> items;
  int depth = 1;
  int64_t bytes = 0;
};
/// Keys in the order of their insertion; 1, 1.0 and true are one key.
class Dict {
 public:
  void set(Value key, Value value);
  const Value* find(const Value& key) const;
  const Value* find_text(std::string_view key) const;
  const std::vector<std::pair<Value, Value>>& entries() const { return entries_; }
  int depth() const { return depth_; }
  int64_t bytes() const { return bytes_; }

 private:
  size_t index_of(const Value& key) const;  // entries_.size(): none

  std::vector<std::pair<Value, Value>> entries_;
  std::unordered_multimap<size_t, size_t> index_;  // hash to place; filled from kIndexed entries on
  int depth_ = 1;
  int64_t bytes_ = 0;
};
struct Range {
  int64_t start, stop, step;
  Sequence numbers;
};
/// dict.keys() and its like: has a length and no items by number.
struct View {
  const char* name;  // "dict_keys"
  Sequence items;
};
/// What can be walked through once, as Python's generators.
struct Iterator {
  std::vector<Value> items;
  size_t at = 0;
  int64_t bytes = 0;
};
/// The one value that a template may change.
struct Namespace {
  std::vector<std::pair<std::string, Value>> attributes;
};
struct Loop {
  std::vector<Value> items;
  size_t index = 0;
  std::vector<Value> last_changed;
  bool has_changed = false;
};
struct Function {
  std::string name;
  std::function<Value(Interpreter&, Arguments&)> call;
};

/// A value of a template, with the meaning it has in Python. Copies share what they hold.
class Value {
 public:
  using Data = std::variant<
      Undefined, std::monostate, bool, int64_t, double, std::shared_ptr<const TextData>,
      std::shared_ptr<const Sequence>, std::shared_ptr<const Range>, std::shared_ptr<const View>,
      std::shared_ptr<Iterator>, std::shared_ptr<const Dict>, std::shared_ptr<Namespace>,
      std::shared_ptr<Loop>, std::shared_ptr<const Function>>;

  Value() : data_(std::monostate()) {}  // none
  Value(bool b) : data_(b) {}
  Value(int64_t n) : data_(n) {}
  Value(int n) : data_(int64_t{n}) {}
  Value(double x) : data_(x) {}
  Value(std::string text, bool is_safe = false);
  Value(const char* text) : Value(std::string(text)) {}
  Value(Data data) : data_(std::move(data)) {}
  static Value undefined(std::string why);
  static Value list(std::vector<Value> items);
  static Value tuple(std::vector<Value> items);
  static Value dict(Dict dict);
  static Value iterator(std::vector<Value> items);
  static Value view(const char* name, std::vector<Value> items);
  static Value function(std::string name, std::function<Value(Interpreter&, Arguments&)> call);

  const Data& data() const { return data_; }
  bool is_undefined() const { return std::holds_alternative<Undefined>(data_); }
  bool is_none() const { return std::holds_alternative<std::monostate>(data_); }
  bool is_bool() const { return std::holds_alternative<bool>(data_); }
  bool is_int() const { return std::holds_alternative<int64_t>(data_); }
  bool is_float() const { return std::holds_alternative<double>(data_); }
  bool is_number() const { return is_bool() || is_int() || is_float(); }
  bool is_text() const { return as<const TextData>() != nullptr; }
  bool is_list() const { return as<const Sequence>() != nullptr && !is_tuple_; }
  bool is_tuple() const { return as<const Sequence>() != nullptr && is_tuple_; }
  const std::string& text() const { return as<const TextData>()->text; }  // Requires is_text()
  template <class T>
  T* as() const {  // the T that this value shares, or null
    const auto* held = std::get_if<std::shared_ptr<T>>(&data_);
    return held ? held->get() : nullptr;
  }
  /// The number of a bool or an int.
  ///   returns   false for every other kind
  bool to_int(int64_t& n) const;
  bool to_double(double& x) const;  // of a bool, an int or a float

  bool truth() const;
  const char* type_name() const;  // as Python says it
  int depth() const;
  int64_t bytes() const;      // with everything inside
  int64_t own_bytes() const;  // without what is inside, which other values may share

 private:
  Data data_;
  bool is_tuple_ = false;
};

/// Python's ==; never throws.
bool equal(const Value& a, const Value& b);
/// Python's <. Throws Fault where the kinds have no order.
bool less(const Value& a, const Value& b);
/// Throws Fault for what cannot be a key: lists, dictionaries …
size_t hash(const Value& value);

/// The items that a `for` walks through; an iterator is used up.
///   throws    Fault for what cannot be walked through
std::vector<Value> items_of(const Value& value);
/// len(): of text in characters. Throws Fault for what has no length.
int64_t length_of(const Value& value);

/// str() and repr() of Python. Throw Fault for what has an address in its text (functions …).
std::string to_text(const Value& value);
std::string to_repr(const Value& value);
std::string float_repr(double x);

/// The value of JSON; objects keep the order of their keys.
///   throws   Fault for numbers beyond 64 bits, and for what is too large or too deep
Value from_json(const nlohmann::ordered_json& json);

}  // namespace qlora::data::jinja
