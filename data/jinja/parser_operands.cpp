// What operators stand between: names, constants and containers, with all that follows them.
#include "data/jinja/filters.h"
#include "data/jinja/parser.h"
#include "data/jinja/parser_core.h"
#include "data/jinja/tests.h"
#include "io/foreign_text.h"

namespace qlora::data::jinja {

NodePtr Parser::name_or_constant(bool is_target) {
  const Token& token = next();
  const bool is_true = token.text == "true" || token.text == "True";
  NodePtr node = make(Node::Kind::kConstant, token.line);
  if (is_true || token.text == "false" || token.text == "False") {
    node->constant = is_true;
  } else if (token.text != "none" && token.text != "None") {
    node->kind = Node::Kind::kName;
    node->name = token.text;
    node->name_id = name_id(token.text);
    saw_loop_ = saw_loop_ || token.text == "loop";
    if (token.text == "caller") special_ |= kUsesCaller;
    if (token.text == "varargs") special_ |= kUsesVarargs;
    if (token.text == "kwargs") special_ |= kUsesKwargs;
    if (is_target && skip_op(".")) {
      node->kind = Node::Kind::kNamespaceTarget;
      node->name = expect_name("the name of an attribute");
    }
  }
  return node;
}

NodePtr Parser::primary(bool is_target) {
  const Token& token = current();
  if (is(Kind::kName)) return name_or_constant(is_target);
  NodePtr node = make(Node::Kind::kConstant, token.line);
  if (is(Kind::kText)) {
    std::string text;
    while (is(Kind::kText)) text += next().text;
    node->constant = Value(std::move(text));
  } else if (is(Kind::kInt)) {
    node->constant = next().number;
  } else if (is(Kind::kFloat)) {
    node->constant = next().real;
  } else if (skip_op("(")) {
    node = tuple(Conditions::kAllowed, true);
    expect_op(")");
  } else if (is_op("[")) {
    node = list();
  } else if (is_op("{")) {
    node = dict();
  } else {
    fail("unexpected " + found());
  }
  return node;
}

NodePtr Parser::tuple(Conditions conditions, bool in_parentheses, std::string_view end_word,
                      bool is_target) {
  const int line = current().line;
  std::vector<NodePtr> items;
  bool is_tuple = false;
  const auto is_end = [&] {
    return is(Kind::kPrintEnd) || is(Kind::kTagEnd) || is_op(")") ||
           (!end_word.empty() && is_word(end_word));
  };
  while (!is_end()) {
    items.push_back(is_target ? primary(true) : expression(conditions));
    if (!is_op(",")) break;
    next();
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items.front());
  if (!is_tuple && !in_parentheses) fail("expected an expression, found " + found());
  NodePtr node = make(Node::Kind::kTuple, line);
  node->items = std::move(items);
  return finish(std::move(node));
}

NodePtr Parser::list() {
  NodePtr node = make(Node::Kind::kList, current().line);
  expect_op("[");
  while (!is_op("]")) {
    if (!node->items.empty()) expect_op(",");
    if (is_op("]")) break;
    node->items.push_back(expression());
  }
  expect_op("]");
  return finish(std::move(node));
}

NodePtr Parser::dict() {
  NodePtr node = make(Node::Kind::kDict, current().line);
  expect_op("{");
  while (!is_op("}")) {
    if (!node->items.empty()) expect_op(",");
    if (is_op("}")) break;
    node->items.push_back(expression());
    expect_op(":");
    node->items.push_back(expression());
  }
  expect_op("}");
  return finish(std::move(node));
}

NodePtr Parser::postfix(NodePtr node) {
  while (true) {
    if (is_op(".") || is_op("[")) {
      node = subscript(std::move(node));
    } else if (is_op("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

NodePtr Parser::subscript(NodePtr node) {
  const int line = current().line;
  if (skip_op(".")) {
    NodePtr out = make(is(Kind::kName) ? Node::Kind::kAttribute : Node::Kind::kItem, line);
    out->a = std::move(node);
    if (is(Kind::kName)) {
      out->name = next().text;
    } else if (is(Kind::kInt)) {
      out->b = make(Node::Kind::kConstant, line);
      out->b->constant = next().number;
    } else {
      fail("expected a name or a number after '.', found " + found());
    }
    return finish(std::move(out));
  }
  expect_op("[");
  NodePtr out = subscribed(std::move(node), line);
  if (is_op(",")) fail("an index with a comma is not supported");
  expect_op("]");
  return out;
}

/// What stands in brackets behind `node`: an index or a slice.
NodePtr Parser::subscribed(NodePtr node, int line) {
  NodePtr first;
  if (!is_op(":")) {
    first = expression();
    if (!is_op(":")) {
      NodePtr out = make(Node::Kind::kItem, line);
      out->a = std::move(node);
      out->b = std::move(first);
      return finish(std::move(out));
    }
  }
  NodePtr out = make(Node::Kind::kSlice, line);
  out->a = std::move(node);
  out->items.push_back(std::move(first));
  for (int part = 0; part < 2; ++part) {
    NodePtr bound;
    if ((part == 0 || is_op(":")) && skip_op(":") && !is_op(":") && !is_op("]") && !is_op(",")) {
      bound = expression();
    }
    out->items.push_back(std::move(bound));
  }
  return finish(std::move(out));
}

NodePtr Parser::call(NodePtr callee) {
  NodePtr node = make(Node::Kind::kCall, current().line);
  node->a = std::move(callee);
  node->call = call_arguments();
  return finish(std::move(node));
}

std::unique_ptr<CallArguments> Parser::call_arguments() {
  auto out = std::make_unique<CallArguments>();
  const auto ensure = [this](bool holds) {
    if (!holds) fail("an argument stands at a place where it may not");
  };
  expect_op("(");
  for (bool is_first = true; !is_op(")"); is_first = false) {
    if (!is_first) {
      expect_op(",");
      if (is_op(")")) break;
    }
    const bool is_named =
        is(Kind::kName) && tokens_[at_ + 1].kind == Kind::kOperator && tokens_[at_ + 1].text == "=";
    if (skip_op("*")) {
      ensure(!out->spread && !out->named_spread);
      out->spread = expression();
    } else if (skip_op("**")) {
      ensure(!out->named_spread);
      out->named_spread = expression();
    } else if (is_named) {
      ensure(!out->named_spread);
      std::string key = next().text;
      next();
      for (const auto& [name, value] : out->named) {
        if (name == key) fail("the argument " + io::quote(key) + " is given twice");
      }
      out->named.emplace_back(std::move(key), expression());
    } else {
      ensure(!out->spread && !out->named_spread && out->named.empty());
      out->positional.push_back(expression());
    }
  }
  expect_op(")");
  return out;
}

NodePtr Parser::filters_and_tests(NodePtr node) {
  while (true) {
    if (is_op("|")) {
      node = filters(std::move(node));
    } else if (is_word("is")) {
      node = test(std::move(node));
    } else if (is_op("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

std::string Parser::dotted_name() {
  std::string name = expect_name("a name");
  while (skip_op(".")) name += "." + expect_name("a name");
  return name;
}

NodePtr Parser::filters(NodePtr node, bool starts_inline) {
  while (is_op("|") || starts_inline) {
    if (!starts_inline) next();
    starts_inline = false;
    NodePtr out = make(Node::Kind::kFilter, current().line);
    out->name = dotted_name();
    if (soft_ == 0 && !find_filter(out->name)) {
      fail(unknown_filter(out->name), out->line);
    }
    out->a = std::move(node);
    out->call = is_op("(") ? call_arguments() : std::make_unique<CallArguments>();
    node = finish(std::move(out));
  }
  return node;
}

NodePtr Parser::test(NodePtr node) {
  NodePtr out = make(Node::Kind::kTest, next().line);
  const bool is_negated = skip_word("not");
  out->name = dotted_name();
  if (soft_ == 0 && !find_test(out->name)) fail(unknown_test(out->name), out->line);
  out->a = std::move(node);
  const bool has_bare = is(Kind::kText) || is(Kind::kInt) || is(Kind::kFloat) || is_op("[") ||
                        is_op("{") ||
                        (is(Kind::kName) && !is_word("else") && !is_word("or") && !is_word("and"));
  if (is_op("(")) {
    out->call = call_arguments();
  } else {
    out->call = std::make_unique<CallArguments>();
    if (has_bare) {
      if (is_word("is")) fail("tests cannot be chained with 'is'");
      out->call->positional.push_back(postfix(primary()));
    }
  }
  out = finish(std::move(out));
  if (!is_negated) return out;
  NodePtr negated = make(Node::Kind::kNot, out->line);
  negated->a = std::move(out);
  return finish(std::move(negated));
}

}  // namespace qlora::data::jinja
