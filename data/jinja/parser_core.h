#pragma once

#include <initializer_list>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/jinja/ast.h"
#include "data/jinja/lexer.h"

namespace qlora::data::jinja {

/// The state of parsing: statements in parser.cpp, operators in parser_expressions.cpp, what stands
/// between them in parser_operands.cpp.
class Parser {
 public:
  Parser(std::string_view text, const std::string& name);
  Program run();

 private:
  using Kind = Token::Kind;
  enum class Conditions { kAllowed, kNone };  // "a if b else c" without parentheses
  using Words = std::initializer_list<std::string_view>;

  // Tokens
  const Token& current() const { return tokens_[at_]; }
  const Token& next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool is(Kind kind) const { return current().kind == kind; }
  bool is_op(std::string_view op) const { return is(Kind::kOperator) && current().text == op; }
  bool is_word(std::string_view word) const { return is(Kind::kName) && current().text == word; }
  bool is_word_after(std::string_view word) const;
  bool skip_op(std::string_view op);
  bool skip_word(std::string_view word);
  void expect_op(std::string_view op);
  std::string expect_name(const char* what);
  [[noreturn]] void fail(const std::string& what, int line = 0) const;
  std::string found() const;  // the current token, for messages

  // Nodes
  NodePtr make(Node::Kind kind, int line) const;
  /// Settles the depth of a node whose children are in place.
  NodePtr finish(NodePtr node) const;
  int32_t name_id(const std::string& name);

  // Expressions
  NodePtr expression(Conditions conditions = Conditions::kAllowed);
  NodePtr condition();
  NodePtr disjunction();
  NodePtr conjunction();
  NodePtr negation();
  NodePtr comparison();
  NodePtr sum();
  NodePtr concatenation();
  NodePtr product();
  NodePtr power();
  NodePtr unary(bool with_filters = true);
  NodePtr primary(bool is_target = false);
  NodePtr name_or_constant(bool is_target);
  NodePtr list();
  NodePtr dict();
  NodePtr postfix(NodePtr node);
  NodePtr subscript(NodePtr node);
  NodePtr subscribed(NodePtr node, int line);
  NodePtr call(NodePtr callee);
  std::unique_ptr<CallArguments> call_arguments();
  NodePtr filters_and_tests(NodePtr node);
  NodePtr filters(NodePtr node, bool starts_inline = false);
  NodePtr test(NodePtr node);
  std::string dotted_name();
  NodePtr tuple(Conditions conditions, bool in_parentheses = false, std::string_view end_word = "",
                bool is_target = false);

  // Statements
  std::vector<NodePtr> statements(Words ends);
  std::vector<NodePtr> block(Words ends);
  NodePtr statement();
  NodePtr known_statement(const std::string& word, int line);
  void end_tag();
  NodePtr target(bool with_namespace, std::string_view end_word = "");
  NodePtr for_loop();
  NodePtr conditional();
  NodePtr set();
  NodePtr macro();
  NodePtr call_block();
  NodePtr filter_block();
  NodePtr with();
  NodePtr generation();
  NodePtr print();
  void signature(Node& node);
  std::vector<NodePtr> function_body(Node& node, std::string_view end);
  void check_assignable(const Node& node) const;

  const std::string& name_;
  std::vector<Token> tokens_;
  size_t at_ = 0;
  Program program_;
  std::map<std::string, int32_t> ids_;
  int nesting_ = 0;  // of the parser's own calls
  int soft_ = 0;     // inside `if`: unknown filters and tests are left to rendering
  int loops_ = 0;    // around, within the innermost macro or block that is a function in Jinja2
  bool saw_loop_ = false;  // the name `loop` was read
  uint8_t special_ = 0;    // kUses… of the names read in the macro around
};

/// Counts nesting for the life of an object.
class Deeper {
 public:
  explicit Deeper(int& depth) : depth_(depth) { ++depth_; }
  ~Deeper() { --depth_; }
  Deeper(const Deeper&) = delete;
  Deeper& operator=(const Deeper&) = delete;

 private:
  int& depth_;
};

}  // namespace qlora::data::jinja
