#include "data/jinja/interpreter.h"

#include <fmt/format.h>

#include <algorithm>

#include "data/jinja/functions.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {

/// Opens a block with names of its own, and closes it however the block is left.
class Interpreter::ScopeGuard {
 public:
  explicit ScopeGuard(Interpreter& in) : ScopeGuard(in, in.scope_) {}
  ScopeGuard(Interpreter& in, Scope* parent)
      : in_(in), outer_(in.scope_), scope_(std::make_unique<Scope>()) {
    scope_->parent = parent;
    in.scope_ = scope_.get();
  }
  ~ScopeGuard() {
    in_.scope_ = outer_;
    if (scope_->is_kept) in_.kept_.push_back(std::move(scope_));
  }
  ScopeGuard(const ScopeGuard&) = delete;
  ScopeGuard& operator=(const ScopeGuard&) = delete;
  /// Forgets the names, as at the start of a loop's next round.
  void renew() {
    if (!scope_->is_kept) return scope_->variables.clear();
    Scope* parent = scope_->parent;
    in_.kept_.push_back(std::move(scope_));
    scope_ = std::make_unique<Scope>();
    scope_->parent = parent;
    in_.scope_ = scope_.get();
  }

 private:
  Interpreter& in_;
  Scope* outer_;
  std::unique_ptr<Scope> scope_;
};

Interpreter::Interpreter(const Program& program,
                         const std::vector<std::pair<std::string, Value>>& variables,
                         std::time_t now, const Limits& limits)
    : program_(program), limits_(limits), now_(now) {
  auto globals = global_functions();
  for (const auto& [name, value] : variables) {
    const auto same = [&](const auto& global) { return global.first == name; };
    std::erase_if(globals, same);
    globals.emplace_back(name, value);
  }
  const auto id_of = [&](std::string_view name) {
    const auto at = std::find(program.names.begin(), program.names.end(), name);
    return at == program.names.end() ? -1 : static_cast<int32_t>(at - program.names.begin());
  };
  loop_name_ = id_of("loop");
  caller_name_ = id_of("caller");
  varargs_name_ = id_of("varargs");
  kwargs_name_ = id_of("kwargs");
  // What the caller gave is the outermost scope: looked up by number like everything else.
  kept_.push_back(std::make_unique<Scope>());
  scope_ = kept_.back().get();
  for (auto& [name, value] : globals) {
    if (const int32_t id = id_of(name); id >= 0) scope_->variables.emplace_back(id, value);
  }
}

Interpreter::~Interpreter() {
  // Namespaces and macros may hold each other in circles: the circles are cut here.
  for (const auto& space : namespaces_) space->attributes.clear();
  for (const auto& scope : kept_) scope->variables.clear();
}

void Interpreter::run() {
  const ScopeGuard top(*this);
  scope_->is_kept = true;
  run_all(program_.body);
}

void Interpreter::spend(int64_t bytes) {
  steps_ += 1 + bytes / 256;
  if (steps_ > limits_.steps) {
    throw Fault(fmt::format("the template takes more than {} steps; does it loop without end?",
                            limits_.steps));
  }
}

void Interpreter::reserve(int64_t bytes) {
  bytes_ += std::min(bytes, limits_.bytes);
  if (bytes_ > limits_.bytes) {
    throw Fault(fmt::format("the template makes more than {} bytes", limits_.bytes));
  }
  spend(std::min(bytes, limits_.bytes));
}

std::shared_ptr<Namespace> Interpreter::make_namespace() {
  reserve(64);
  return namespaces_.emplace_back(std::make_shared<Namespace>());
}

void Interpreter::write(std::string_view text) {
  reserve(static_cast<int64_t>(text.size()));
  output_ += text;
  if (output_.size() > limits_.output_bytes) {
    throw Fault(fmt::format("the output grows beyond {} bytes", limits_.output_bytes));
  }
}

// Names

const Value* Interpreter::find(int32_t name_id) const {
  for (const Scope* scope = scope_; scope; scope = scope->parent) {
    for (const auto& [id, value] : scope->variables) {
      if (id == name_id) return &value;
    }
  }
  return nullptr;
}

void Interpreter::store(int32_t name_id, Value value) {
  for (auto& [id, old] : scope_->variables) {
    if (id == name_id) {
      old = std::move(value);
      return;
    }
  }
  scope_->variables.emplace_back(name_id, std::move(value));
}

void Interpreter::assign(const Node& target, Value value) {
  if (target.kind == Node::Kind::kName) return store(target.name_id, std::move(value));
  if (target.kind == Node::Kind::kNamespaceTarget) {
    const Value* holder = find(target.name_id);
    auto* space = holder ? holder->as<Namespace>() : nullptr;
    if (!space) throw Fault("only attributes of a namespace can be set");
    check_attribute_name(target.name);
    for (auto& [name, old] : space->attributes) {
      if (name == target.name) {
        old = std::move(value);
        return;
      }
    }
    reserve(64);
    space->attributes.emplace_back(target.name, std::move(value));
    return;
  }
  spend(value.bytes());
  const std::vector<Value> items = items_of(value);
  if (items.size() != target.items.size()) {
    throw Fault(
        fmt::format("{} values are assigned to {} names", items.size(), target.items.size()));
  }
  for (size_t i = 0; i < items.size(); ++i) assign(*target.items[i], items[i]);
}

// Statements

Interpreter::Flow Interpreter::run_all(const std::vector<NodePtr>& body) {
  for (const NodePtr& node : body) {
    const Flow flow = run_one(*node);
    if (flow != Flow::kOn) return flow;
  }
  return Flow::kOn;
}

Interpreter::Flow Interpreter::run_block(const std::vector<NodePtr>& body) {
  const ScopeGuard scope(*this);
  return run_all(body);
}

Interpreter::Flow Interpreter::run_one(const Node& node) {
  line_ = node.line;
  spend(0);
  if (++depth_ > limits_.depth) {
    throw Fault(fmt::format("the template recurses deeper than {} levels", limits_.depth));
  }
  Flow flow = Flow::kOn;
  switch (node.kind) {
    case Node::Kind::kOutput:
      run_output(node);
      break;
    case Node::Kind::kFor:
      flow = run_for(node);
      break;
    case Node::Kind::kIf:
      flow = run_if(node);
      break;
    case Node::Kind::kSet:
      assign(*node.a, evaluate(*node.b));
      break;
    case Node::Kind::kSetBlock:
      assign(*node.a, filter_captured(node.b.get(), Value(capture(node.body))));
      break;
    case Node::Kind::kMacro:
      run_macro(node);
      break;
    case Node::Kind::kCallBlock:
      run_call_block(node);
      break;
    case Node::Kind::kFilterBlock:
      write(to_text(filter_captured(node.a.get(), Value(capture(node.body)))));
      break;
    case Node::Kind::kWith:
      run_with(node);
      break;
    case Node::Kind::kGeneration:
      run_generation(node);
      break;
    case Node::Kind::kBreak:
      flow = Flow::kBreak;
      break;
    default:
      flow = Flow::kContinue;
      break;
  }
  --depth_;
  return flow;
}

void Interpreter::run_output(const Node& node) {
  for (const NodePtr& item : node.items) {
    if (item->kind == Node::Kind::kConstant && item->constant.is_text()) {
      write(item->constant.text());
    } else {
      const Value value = evaluate(*item);
      spend(value.bytes());
      write(to_text(value));
    }
  }
}

Interpreter::Flow Interpreter::run_if(const Node& node) {
  if (evaluate(*node.a).truth()) return run_all(node.body);
  for (const NodePtr& branch : node.items) {
    line_ = branch->line;
    if (evaluate(*branch->a).truth()) return run_all(branch->body);
  }
  return run_all(node.otherwise);
}

Interpreter::Flow Interpreter::run_for(const Node& node) {
  const Value iterable = evaluate(*node.b);
  reserve(iterable.own_bytes());
  std::vector<Value> items = items_of(iterable);
  if (node.c) {
    std::vector<Value> kept;
    ScopeGuard scope(*this);
    for (Value& item : items) {
      scope.renew();
      assign(*node.a, item);
      if (evaluate(*node.c).truth()) kept.push_back(std::move(item));
    }
    items = std::move(kept);
  }
  if (items.empty()) return run_block(node.otherwise);
  auto loop = std::make_shared<Loop>();
  loop->items = std::move(items);
  ScopeGuard scope(*this);
  for (size_t i = 0; i < loop->items.size(); ++i) {
    spend(0);
    scope.renew();
    loop->index = i;
    if (node.flag) store(loop_name_, Value(Value::Data(loop)));
    assign(*node.a, loop->items[i]);
    if (run_all(node.body) == Flow::kBreak) break;
  }
  return Flow::kOn;
}

std::string Interpreter::capture(const std::vector<NodePtr>& body) {
  std::string outer = std::exchange(output_, {});
  ++captures_;
  run_block(body);
  --captures_;
  return std::exchange(output_, std::move(outer));
}

Value Interpreter::filter_captured(const Node* filters, Value text) {
  if (filters == nullptr) return text;
  return evaluate_filter(*filters, &text);
}

void Interpreter::run_with(const Node& node) {
  // The values are those of the block around, as in Jinja2.
  std::vector<Value> values;
  for (size_t i = 1; i < node.items.size(); i += 2) values.push_back(evaluate(*node.items[i]));
  const ScopeGuard scope(*this);
  for (size_t i = 0; i < values.size(); ++i) assign(*node.items[2 * i], values[i]);
  run_all(node.body);
}

void Interpreter::run_generation(const Node& node) {
  const size_t begin = output_.size();
  run_block(node.body);
  generations_.push_back({begin, output_.size()});
  // In a macro or a set block the text may end up anywhere, or nowhere.
  if (captures_ > 0) generations_known_ = false;
}

// Macros

void Interpreter::run_macro(const Node& node) {
  store(node.name_id, make_macro(node, scope_));
}

Value Interpreter::make_macro(const Node& node, Scope* scope) {
  for (Scope* s = scope; s && !s->is_kept; s = s->parent) s->is_kept = true;
  return Value::function(node.name, [&node, scope](Interpreter& in, Arguments& arguments) {
    return in.call_macro(node, scope, arguments);
  });
}

Value Interpreter::call_macro(const Node& node, Scope* scope, Arguments& arguments) {
  const ScopeGuard guard(*this, scope);
  const auto taken = std::min(arguments.positional.size(), node.parameters.size());
  for (size_t i = 0; i < node.parameters.size(); ++i) {
    const Node::Parameter& parameter = node.parameters[i];
    const auto named =
        std::find_if(arguments.named.begin(), arguments.named.end(),
                     [&](const auto& argument) { return argument.first == parameter.name; });
    if (i < taken) {
      if (named != arguments.named.end()) {
        throw Fault(fmt::format("the macro {} gets the argument {} twice", io::quote(node.name),
                                io::quote(parameter.name)));
      }
      store(parameter.name_id, arguments.positional[i]);
    } else if (named != arguments.named.end()) {
      store(parameter.name_id, named->second);
      arguments.named.erase(named);
    } else if (parameter.fallback) {
      store(parameter.name_id, evaluate(*parameter.fallback));
    } else {
      store(parameter.name_id, Value::undefined(fmt::format("the parameter {} was not provided",
                                                            io::quote(parameter.name))));
    }
  }
  const bool has_caller = std::any_of(node.parameters.begin(), node.parameters.end(),
                                      [](const auto& p) { return p.name == "caller"; });
  const bool takes_caller = (node.special & kUsesCaller) && !has_caller;
  std::vector<Value> more(arguments.positional.begin() + static_cast<int64_t>(taken),
                          arguments.positional.end());
  Dict named;
  Value caller = Value::undefined("no caller is defined");
  for (auto& [name, value] : arguments.named) {
    if (name == "caller" && takes_caller) {
      caller = value;
    } else {
      named.set(Value(name), value);
    }
  }
  if (!more.empty() && !(node.special & kUsesVarargs)) {
    throw Fault(fmt::format("the macro {} takes {} arguments, {} are given", io::quote(node.name),
                            node.parameters.size(), arguments.positional.size()));
  }
  if (!named.entries().empty() && !(node.special & kUsesKwargs)) {
    throw Fault(fmt::format("the macro {} has no parameter {}", io::quote(node.name),
                            io::quote(named.entries().front().first.text())));
  }
  if (takes_caller) store(caller_name_, std::move(caller));
  if (node.special & kUsesVarargs) store(varargs_name_, Value::tuple(std::move(more)));
  if (node.special & kUsesKwargs) store(kwargs_name_, Value::dict(std::move(named)));
  std::string outer = std::exchange(output_, {});
  ++captures_;
  run_all(node.body);
  --captures_;
  return Value(std::exchange(output_, std::move(outer)));
}

void Interpreter::run_call_block(const Node& node) {
  const Value body = make_macro(node, scope_);
  const Value function = evaluate(*node.a->a);
  Arguments arguments = evaluate_arguments(*node.a->call);
  arguments.named.emplace_back("caller", body);
  const Value text = call(function, arguments);
  write(to_text(text));
}

}  // namespace qlora::data::jinja
