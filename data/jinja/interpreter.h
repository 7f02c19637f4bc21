#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "data/jinja/ast.h"
#include "data/jinja/value.h"

namespace qlora::data::jinja {

/// What a rendering may cost. Nothing that a template does gets past these: a step is a node that
/// is evaluated, or 256 bytes that are looked at.
struct Limits {
  int64_t steps = int64_t{1} << 24;    // some seconds
  int64_t bytes = int64_t{128} << 20;  // of all texts and lists that are made
  int depth = 1000;                    // nodes within nodes, macro calls included
  size_t output_bytes = size_t{64} << 20;
};

/// A stretch of the output, in bytes.
struct OutputSpan {
  size_t begin, end;
  bool operator==(const OutputSpan&) const = default;
};

/// Renders one template once. Made by Template::render; filters, tests and methods get it to
/// evaluate, to call, and to pay for what they do.
class Interpreter {
 public:
  Interpreter(const Program& program, const std::vector<std::pair<std::string, Value>>& variables,
              std::time_t now, const Limits& limits);
  ~Interpreter();
  Interpreter(const Interpreter&) = delete;
  Interpreter& operator=(const Interpreter&) = delete;

  /// throws  Fault; line() is then where it happened
  void run();
  std::string& output() { return output_; }
  const std::vector<OutputSpan>& generations() const { return generations_; }
  bool generations_known() const { return generations_known_; }
  int line() const { return line_; }
  std::time_t now() const { return now_; }

  // For filters, tests, methods and functions
  Value call(const Value& function, Arguments& arguments);
  Value call_filter(const std::string& name, const Value& value, Arguments& arguments);
  bool call_test(const std::string& name, const Value& value, Arguments& arguments);
  /// Pays for looking at so many bytes. Throws Fault when the budget is spent.
  void spend(int64_t bytes);
  /// Pays for making something, before it is made.
  void reserve(int64_t bytes);
  std::shared_ptr<Namespace> make_namespace();

 private:
  enum class Flow { kOn, kBreak, kContinue };
  /// Names and what they stand for, up to the next outer block that has its own.
  struct Scope {
    Scope* parent = nullptr;
    std::vector<std::pair<int32_t, Value>> variables;
    bool is_kept = false;  // a macro was made here and may be called when the block is over
  };
  class ScopeGuard;
  class Descent;

  // Statements: interpreter.cpp
  Flow run_all(const std::vector<NodePtr>& body);
  Flow run_one(const Node& node);
  void run_output(const Node& node);
  Flow run_for(const Node& node);
  Flow run_if(const Node& node);
  Flow run_block(const std::vector<NodePtr>& body);
  std::string capture(const std::vector<NodePtr>& body);
  Value filter_captured(const Node* filters, Value text);
  void run_macro(const Node& node);
  void run_call_block(const Node& node);
  void run_with(const Node& node);
  void run_generation(const Node& node);
  Value make_macro(const Node& node, Scope* scope);
  Value call_macro(const Node& node, Scope* scope, Arguments& arguments);
  void assign(const Node& target, Value value);
  void store(int32_t name_id, Value value);
  const Value* find(int32_t name_id) const;
  void write(std::string_view text);

  // Expressions: expressions.cpp
  Value evaluate(const Node& node);
  Value evaluate_kind(const Node& node);
  Value evaluate_name(const Node& node);
  std::vector<Value> evaluate_items(const std::vector<NodePtr>& items);
  Value evaluate_dict(const Node& node);
  Value evaluate_compare(const Node& node);
  Value evaluate_concat(const Node& node);
  Value evaluate_slice(const Node& node);
  Value evaluate_call(const Node& node);
  Value evaluate_filter(const Node& node, const Value* captured);
  Arguments evaluate_arguments(const CallArguments& call);

  const Program& program_;
  const Limits limits_;
  const std::time_t now_;
  std::vector<std::unique_ptr<Scope>> kept_;
  std::vector<std::shared_ptr<Namespace>> namespaces_;
  Scope* scope_ = nullptr;
  std::string output_;  // of the block that runs
  int captures_ = 0;    // how many blocks wait with an output of their own
  int32_t loop_name_ = -1;
  int32_t caller_name_ = -1, varargs_name_ = -1, kwargs_name_ = -1;
  std::vector<OutputSpan> generations_;
  bool generations_known_ = true;
  int64_t steps_ = 0, bytes_ = 0;
  int depth_ = 0;
  int line_ = 1;
};

}  // namespace qlora::data::jinja
