#include <fmt/format.h>

#include "data/jinja/access.h"
#include "data/jinja/filters.h"
#include "data/jinja/functions.h"
#include "data/jinja/interpreter.h"
#include "data/jinja/operators.h"
#include "data/jinja/tests.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {

Value Interpreter::evaluate(const Node& node) {
  if (node.kind == Node::Kind::kConstant) return node.constant;
  if (node.kind == Node::Kind::kName) return evaluate_name(node);
  spend(0);
  if (++depth_ > limits_.depth) {
    throw Fault(fmt::format("the template recurses deeper than {} levels", limits_.depth));
  }
  Value value = evaluate_kind(node);
  --depth_;
  return value;
}

Value Interpreter::evaluate_kind(const Node& node) {
  switch (node.kind) {
    case Node::Kind::kList:
      return Value::list(evaluate_items(node.items));
    case Node::Kind::kTuple:
      return Value::tuple(evaluate_items(node.items));
    case Node::Kind::kDict:
      return evaluate_dict(node);
    case Node::Kind::kAnd: {
      Value left = evaluate(*node.a);
      return left.truth() ? evaluate(*node.b) : left;
    }
    case Node::Kind::kOr: {
      Value left = evaluate(*node.a);
      return left.truth() ? left : evaluate(*node.b);
    }
    case Node::Kind::kNot:
      return !evaluate(*node.a).truth();
    case Node::Kind::kNegative:
    case Node::Kind::kPositive:
      return signed_value(evaluate(*node.a), node.kind == Node::Kind::kNegative);
    case Node::Kind::kBinary: {
      const Value left = evaluate(*node.a);
      const Value right = evaluate(*node.b);
      line_ = node.line;
      return arithmetic(*this, node.op, left, right);
    }
    case Node::Kind::kCompare:
      return evaluate_compare(node);
    case Node::Kind::kConcat:
      return evaluate_concat(node);
    case Node::Kind::kConditional:
      if (evaluate(*node.b).truth()) return evaluate(*node.a);
      if (node.c) return evaluate(*node.c);
      return Value::undefined("the inline 'if' has no 'else' and its condition does not hold");
    case Node::Kind::kAttribute: {
      const Value object = evaluate(*node.a);
      line_ = node.line;
      return attribute_of(object, node.name);
    }
    case Node::Kind::kItem: {
      const Value object = evaluate(*node.a);
      const Value index = evaluate(*node.b);
      line_ = node.line;
      spend(object.is_text() ? object.bytes() : 0);
      return item_of(object, index);
    }
    case Node::Kind::kSlice:
      return evaluate_slice(node);
    case Node::Kind::kCall:
      return evaluate_call(node);
    case Node::Kind::kFilter:
      return evaluate_filter(node, nullptr);
    default: {  // kTest
      const Value value = evaluate(*node.a);
      Arguments arguments = evaluate_arguments(*node.call);
      line_ = node.line;
      return call_test(node.name, value, arguments);
    }
  }
}

Value Interpreter::evaluate_name(const Node& node) {
  if (const Value* value = find(node.name_id)) return *value;
  return Value::undefined(io::quote(node.name) + " is undefined");
}

std::vector<Value> Interpreter::evaluate_items(const std::vector<NodePtr>& items) {
  reserve(40 * static_cast<int64_t>(items.size()));
  std::vector<Value> out;
  out.reserve(items.size());
  for (const NodePtr& item : items) out.push_back(evaluate(*item));
  return out;
}

Value Interpreter::evaluate_dict(const Node& node) {
  reserve(40 * static_cast<int64_t>(node.items.size()));
  Dict dict;
  for (size_t i = 0; i < node.items.size(); i += 2) {
    Value key = evaluate(*node.items[i]);
    dict.set(std::move(key), evaluate(*node.items[i + 1]));
  }
  return Value::dict(std::move(dict));
}

Value Interpreter::evaluate_compare(const Node& node) {
  Value left = evaluate(*node.a);
  for (size_t i = 0; i < node.ops.size(); ++i) {
    Value right = evaluate(*node.items[i]);
    line_ = node.line;
    if (!compare(*this, node.ops[i], left, right)) return false;
    left = std::move(right);
  }
  return true;
}

Value Interpreter::evaluate_concat(const Node& node) {
  std::string text;
  for (const NodePtr& item : node.items) {
    const Value value = evaluate(*item);
    reserve(value.bytes());
    text += to_text(value);
  }
  return Value(std::move(text));
}

Value Interpreter::evaluate_slice(const Node& node) {
  const Value object = evaluate(*node.a);
  Value bounds[3];
  for (size_t i = 0; i < 3; ++i) {
    if (node.items[i]) bounds[i] = evaluate(*node.items[i]);
  }
  line_ = node.line;
  reserve(object.own_bytes());
  return slice_of(object, bounds[0], bounds[1], bounds[2]);
}

Arguments Interpreter::evaluate_arguments(const CallArguments& call) {
  Arguments out;
  out.positional.reserve(call.positional.size());
  for (const NodePtr& argument : call.positional) out.positional.push_back(evaluate(*argument));
  for (const auto& [name, argument] : call.named) out.named.emplace_back(name, evaluate(*argument));
  if (call.spread) {
    const Value more = evaluate(*call.spread);
    reserve(more.own_bytes());
    for (Value& item : items_of(more)) out.positional.push_back(std::move(item));
  }
  if (call.named_spread) {
    const Value more = evaluate(*call.named_spread);
    const auto* dict = more.as<const Dict>();
    if (!dict) throw Fault("what follows ** is no dictionary");
    reserve(more.own_bytes());
    for (const auto& [key, value] : dict->entries()) {
      if (!key.is_text()) throw Fault("the name of an argument is no text");
      for (const auto& argument : out.named) {
        if (argument.first == key.text()) {
          throw Fault(fmt::format("the argument {} is given twice", io::quote(key.text())));
        }
      }
      out.named.emplace_back(key.text(), value);
    }
  }
  return out;
}

Value Interpreter::evaluate_call(const Node& node) {
  const Value function = evaluate(*node.a);
  Arguments arguments = evaluate_arguments(*node.call);
  line_ = node.line;
  if (const auto* gap = std::get_if<Undefined>(&function.data())) {
    const bool is_name = node.a->kind == Node::Kind::kName;
    throw Fault(is_name ? fmt::format("the function {} is not known; known are {}",
                                      io::quote(node.a->name), known_functions())
                        : *gap->why);
  }
  return call(function, arguments);
}

Value Interpreter::call(const Value& function, Arguments& arguments) {
  const auto* known = function.as<const Function>();
  if (!known) {
    if (const auto* gap = std::get_if<Undefined>(&function.data())) throw Fault(*gap->why);
    throw Fault(fmt::format("a {} cannot be called", function.type_name()));
  }
  const int line = line_;
  const std::shared_ptr<const Function> held =
      std::get<std::shared_ptr<const Function>>(function.data());
  Value value = held->call(*this, arguments);
  line_ = line;
  reserve(value.own_bytes());
  return value;
}

Value Interpreter::evaluate_filter(const Node& node, const Value* captured) {
  const Value value =
      node.a ? (node.a->kind == Node::Kind::kFilter && captured ? evaluate_filter(*node.a, captured)
                                                                : evaluate(*node.a))
             : *captured;
  Arguments arguments = evaluate_arguments(*node.call);
  line_ = node.line;
  return call_filter(node.name, value, arguments);
}

Value Interpreter::call_filter(const std::string& name, const Value& value, Arguments& arguments) {
  const Filter filter = find_filter(name);
  if (!filter) throw Fault(unknown_filter(name));
  spend(value.bytes());
  Value result = filter(*this, value, arguments);
  reserve(result.own_bytes());
  return result;
}

bool Interpreter::call_test(const std::string& name, const Value& value, Arguments& arguments) {
  const Test test = find_test(name);
  if (!test) throw Fault(unknown_test(name));
  spend(0);
  return test(*this, value, arguments);
}

}  // namespace qlora::data::jinja
