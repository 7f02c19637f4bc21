#include "data/jinja/parser.h"

#include <algorithm>

#include "core/error.h"
#include "data/jinja/parser_core.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {

Parser::Parser(std::string_view text, const std::string& name)
    : name_(name), tokens_(tokenize(text, name)) {
  program_.name = name;
}

Program Parser::run() {
  program_.body = statements({});
  return std::move(program_);
}

// Tokens

bool Parser::is_word_after(std::string_view word) const {
  const Token& after = tokens_[std::min(at_ + 1, tokens_.size() - 1)];
  return after.kind == Kind::kName && after.text == word;
}

bool Parser::skip_op(std::string_view op) {
  if (!is_op(op)) return false;
  next();
  return true;
}

bool Parser::skip_word(std::string_view word) {
  if (!is_word(word)) return false;
  next();
  return true;
}

void Parser::expect_op(std::string_view op) {
  if (!skip_op(op)) fail("expected '" + std::string(op) + "', found " + found());
}

std::string Parser::expect_name(const char* what) {
  if (!is(Kind::kName)) fail("expected " + std::string(what) + ", found " + found());
  return next().text;
}

std::string Parser::found() const {
  switch (current().kind) {
    case Kind::kEnd:
      return "the end of the template";
    case Kind::kPrintEnd:
      return "'}}'";
    case Kind::kTagEnd:
      return "'%}'";
    case Kind::kInt:
    case Kind::kFloat:
      return "a number";
    default:
      return io::quote(current().text);
  }
}

void Parser::fail(const std::string& what, int line) const {
  throw FormatError(
      fmt::format("[template] {}, line {}: {}", name_, line > 0 ? line : current().line, what));
}

// Nodes

NodePtr Parser::make(Node::Kind kind, int line) const {
  auto node = std::make_unique<Node>();
  node->kind = kind;
  node->line = line;
  return node;
}

NodePtr Parser::finish(NodePtr node) const {
  int deepest = 0;
  const auto see = [&](const NodePtr& child) {
    if (child) deepest = std::max(deepest, child->depth);
  };
  see(node->a);
  see(node->b);
  see(node->c);
  for (const auto* list : {&node->items, &node->body, &node->otherwise}) {
    for (const NodePtr& child : *list) see(child);
  }
  for (const auto& parameter : node->parameters) see(parameter.fallback);
  if (node->call) {
    for (const NodePtr& child : node->call->positional) see(child);
    for (const auto& [key, child] : node->call->named) see(child);
    see(node->call->spread);
    see(node->call->named_spread);
  }
  node->depth = deepest + 1;
  if (node->depth > kMaxNodeDepth) {
    fail(fmt::format("the template nests deeper than {} levels", kMaxNodeDepth), node->line);
  }
  return node;
}

int32_t Parser::name_id(const std::string& name) {
  const auto [at, is_new] = ids_.emplace(name, static_cast<int32_t>(program_.names.size()));
  if (is_new) program_.names.push_back(name);
  return at->second;
}

// Statements

/// Text, prints and tags up to a tag that begins with one of `ends`; its name is then current.
std::vector<NodePtr> Parser::statements(Words ends) {
  const Deeper deeper(nesting_);
  if (nesting_ > kMaxNodeDepth) {
    fail(fmt::format("the template nests deeper than {} levels", kMaxNodeDepth));
  }
  std::vector<NodePtr> body;
  const auto output = [&]() -> Node& {
    if (body.empty() || body.back()->kind != Node::Kind::kOutput) {
      body.push_back(make(Node::Kind::kOutput, current().line));
    }
    return *body.back();
  };
  while (!is(Kind::kEnd)) {
    if (is(Kind::kData)) {
      NodePtr node = make(Node::Kind::kConstant, current().line);
      node->constant = Value(next().text);
      output().items.push_back(std::move(node));
    } else if (is(Kind::kPrintBegin)) {
      next();
      NodePtr node = tuple(Conditions::kAllowed);
      if (!is(Kind::kPrintEnd)) fail("expected '}}', found " + found());
      next();
      output().items.push_back(std::move(node));
    } else {
      next();
      if (is(Kind::kName) && std::find(ends.begin(), ends.end(), current().text) != ends.end()) {
        break;
      }
      NodePtr node = statement();
      if (!is(Kind::kTagEnd)) fail("expected '%}', found " + found());
      next();
      body.push_back(std::move(node));
    }
  }
  if (is(Kind::kEnd) && ends.size() > 0) {
    fail(fmt::format("the template ends inside a block, expected '{}'", *std::prev(ends.end())));
  }
  for (NodePtr& node : body) {
    if (node->kind == Node::Kind::kOutput) node = finish(std::move(node));
  }
  return body;
}

/// The rest of an opening tag, and what follows up to one of `ends`.
std::vector<NodePtr> Parser::block(Words ends) {
  skip_op(":");
  if (!is(Kind::kTagEnd)) fail("expected '%}', found " + found());
  next();
  return statements(ends);
}

NodePtr Parser::statement() {
  const int line = current().line;
  if (!is(Kind::kName)) fail("expected the name of a tag, found " + found());
  const std::string word = current().text;
  NodePtr node = known_statement(word, line);
  if (!node) {
    fail(fmt::format("the statement {} is not supported; known are for, if, set, macro, call, "
                     "filter, with, generation, print, break, continue, raw",
                     io::quote(word)),
         line);
  }
  return finish(std::move(node));
}

NodePtr Parser::known_statement(const std::string& word, int line) {
  if (word == "for") return for_loop();
  if (word == "if") return conditional();
  if (word == "set") return set();
  if (word == "macro") return macro();
  if (word == "call") return call_block();
  if (word == "filter") return filter_block();
  if (word == "with") return with();
  if (word == "generation") return generation();
  if (word == "print") return print();
  if (word == "break" || word == "continue") {
    if (loops_ == 0) fail(fmt::format("'{}' stands outside of a loop", word));
    next();
    return make(word == "break" ? Node::Kind::kBreak : Node::Kind::kContinue, line);
  }
  return nullptr;
}

void Parser::check_assignable(const Node& node) const {
  if (node.kind == Node::Kind::kTuple) {
    for (const NodePtr& item : node.items) check_assignable(*item);
    return;
  }
  if (node.kind != Node::Kind::kName && node.kind != Node::Kind::kNamespaceTarget) {
    fail("only names can be assigned to", node.line);
  }
}

NodePtr Parser::target(bool with_namespace, std::string_view end_word) {
  const bool saw_loop = saw_loop_;
  NodePtr node = tuple(Conditions::kNone, false, end_word, true);
  saw_loop_ = saw_loop;
  check_assignable(*node);
  if (!with_namespace && node->kind == Node::Kind::kNamespaceTarget) {
    fail("only names can be assigned to", node->line);
  }
  return node;
}

NodePtr Parser::for_loop() {
  NodePtr node = make(Node::Kind::kFor, next().line);
  node->a = target(false, "in");
  if (!skip_word("in")) fail("expected 'in', found " + found());
  node->b = tuple(Conditions::kNone, false, "recursive");
  if (skip_word("if")) node->c = expression();
  if (is_word("recursive")) fail("'recursive' loops are not supported");
  const bool outer_saw_loop = saw_loop_;
  saw_loop_ = false;
  {
    const Deeper loop(loops_);
    node->body = block({"else", "endfor"});
  }
  node->flag = saw_loop_;
  saw_loop_ = outer_saw_loop;
  if (next().text == "else") {
    node->otherwise = block({"endfor"});
    next();
  }
  return node;
}

NodePtr Parser::conditional() {
  NodePtr first = make(Node::Kind::kIf, next().line);
  // Each elif is the only statement of the `otherwise` before it; their number is bounded by depth
  // alone, so they are kept side by side instead.
  Node* node = first.get();
  std::vector<NodePtr> branches;
  const Deeper soft(soft_);
  while (true) {
    node->a = tuple(Conditions::kNone);
    node->body = block({"elif", "else", "endif"});
    const std::string word = next().text;
    if (word == "endif") break;
    if (word == "else") {
      first->otherwise = block({"endif"});
      next();
      break;
    }
    branches.push_back(make(Node::Kind::kIf, current().line));
    node = branches.back().get();
  }
  for (NodePtr& branch : branches) first->items.push_back(finish(std::move(branch)));
  return first;
}

NodePtr Parser::set() {
  const int line = next().line;
  NodePtr goal = target(true);
  NodePtr node = make(Node::Kind::kSet, line);
  if (skip_op("=")) {
    node->b = tuple(Conditions::kAllowed);
  } else {
    node->kind = Node::Kind::kSetBlock;
    if (is_op("|")) node->b = filters(nullptr);
    node->body = block({"endset"});
    next();
  }
  node->a = std::move(goal);
  return node;
}

/// "(a, b=1)" of a macro or a call block.
void Parser::signature(Node& node) {
  expect_op("(");
  while (!is_op(")")) {
    if (!node.parameters.empty()) expect_op(",");
    std::string name = expect_name("the name of a parameter");
    const int32_t id = name_id(name);
    for (const auto& parameter : node.parameters) {
      if (parameter.name_id == id) fail("the parameter " + io::quote(name) + " stands twice");
    }
    NodePtr fallback;
    if (skip_op("=")) {
      fallback = expression();
    } else if (!node.parameters.empty() && node.parameters.back().fallback) {
      fail("a parameter without a default follows one with a default");
    }
    node.parameters.push_back({id, std::move(name), std::move(fallback)});
  }
  expect_op(")");
}

/// A body that is a function of its own in Jinja2: no loop is around it.
std::vector<NodePtr> Parser::function_body(Node& node, std::string_view end) {
  const int loops = std::exchange(loops_, 0);
  const uint8_t special = std::exchange(special_, 0);
  std::vector<NodePtr> body = block({end});
  node.special = special_;
  special_ |= special;
  loops_ = loops;
  next();
  return body;
}

NodePtr Parser::macro() {
  NodePtr node = make(Node::Kind::kMacro, next().line);
  node->name = expect_name("the name of a macro");
  node->name_id = name_id(node->name);
  signature(*node);
  node->body = function_body(*node, "endmacro");
  return node;
}

NodePtr Parser::call_block() {
  NodePtr node = make(Node::Kind::kCallBlock, next().line);
  if (is_op("(")) signature(*node);
  node->a = expression();
  if (node->a->kind != Node::Kind::kCall) fail("expected a call", node->line);
  node->body = function_body(*node, "endcall");
  return node;
}

NodePtr Parser::filter_block() {
  NodePtr node = make(Node::Kind::kFilterBlock, next().line);
  node->a = filters(nullptr, true);
  node->body = block({"endfilter"});
  next();
  return node;
}

NodePtr Parser::with() {
  NodePtr node = make(Node::Kind::kWith, next().line);
  while (!is(Kind::kTagEnd)) {
    if (!node->items.empty()) expect_op(",");
    node->items.push_back(target(false));
    expect_op("=");
    node->items.push_back(expression());
  }
  node->body = block({"endwith"});
  next();
  return node;
}

NodePtr Parser::generation() {
  NodePtr node = make(Node::Kind::kGeneration, next().line);
  program_.has_generation = true;
  node->body = function_body(*node, "endgeneration");
  return node;
}

NodePtr Parser::print() {
  NodePtr node = make(Node::Kind::kOutput, next().line);
  while (!is(Kind::kTagEnd)) {
    if (!node->items.empty()) expect_op(",");
    node->items.push_back(expression());
  }
  return node;
}

Program parse(std::string_view text, const std::string& name) {
  QLORA_CHECK(text.size() <= kMaxTemplateBytes, FormatError,
              "[template] {} has {} bytes, allowed at most {}", name, text.size(),
              kMaxTemplateBytes);
  return Parser(text, name).run();
}

}  // namespace qlora::data::jinja
