// Operators, from the loosest to the tightest.
#include <algorithm>

#include "data/jinja/parser.h"
#include "data/jinja/parser_core.h"

namespace qlora::data::jinja {

NodePtr Parser::expression(Conditions conditions) {
  const Deeper deeper(nesting_);
  if (nesting_ > kMaxNodeDepth) {
    fail("the template nests deeper than " + std::to_string(kMaxNodeDepth) + " levels");
  }
  return conditions == Conditions::kAllowed ? condition() : disjunction();
}

NodePtr Parser::condition() {
  NodePtr left = disjunction();
  while (is_word("if")) {
    NodePtr node = make(Node::Kind::kConditional, next().line);
    node->a = std::move(left);
    const Deeper soft(soft_);
    node->b = disjunction();
    if (skip_word("else")) node->c = expression();
    left = finish(std::move(node));
  }
  return left;
}

NodePtr Parser::disjunction() {
  NodePtr left = conjunction();
  while (is_word("or")) {
    NodePtr node = make(Node::Kind::kOr, next().line);
    node->a = std::move(left);
    node->b = conjunction();
    left = finish(std::move(node));
  }
  return left;
}

NodePtr Parser::conjunction() {
  NodePtr left = negation();
  while (is_word("and")) {
    NodePtr node = make(Node::Kind::kAnd, next().line);
    node->a = std::move(left);
    node->b = negation();
    left = finish(std::move(node));
  }
  return left;
}

NodePtr Parser::negation() {
  if (!is_word("not")) return comparison();
  const Deeper deeper(nesting_);
  if (nesting_ > kMaxNodeDepth) fail("too many 'not' in a row");
  NodePtr node = make(Node::Kind::kNot, next().line);
  node->a = negation();
  return finish(std::move(node));
}

NodePtr Parser::comparison() {
  static constexpr std::pair<std::string_view, Op> kComparisons[] = {
      {"==", Op::kEqual},     {"!=", Op::kNotEqual}, {"<", Op::kLess},
      {"<=", Op::kLessEqual}, {">", Op::kGreater},   {">=", Op::kGreaterEqual}};
  NodePtr first = sum();
  NodePtr node;
  while (true) {
    const auto* known = std::find_if(std::begin(kComparisons), std::end(kComparisons),
                                     [this](const auto& entry) { return is_op(entry.first); });
    Op op = Op::kIn;
    const int line = current().line;
    if (known != std::end(kComparisons)) {
      op = known->second;
      next();
    } else if (is_word("not") && is_word_after("in")) {
      op = Op::kNotIn;
      next();
      next();
    } else if (!skip_word("in")) {
      break;
    }
    if (!node) {
      node = make(Node::Kind::kCompare, line);
      node->a = std::move(first);
    }
    node->ops.push_back(op);
    node->items.push_back(sum());
  }
  return node ? finish(std::move(node)) : std::move(first);
}

NodePtr Parser::sum() {
  NodePtr left = concatenation();
  while (is_op("+") || is_op("-")) {
    NodePtr node = make(Node::Kind::kBinary, current().line);
    node->op = next().text == "+" ? Op::kAdd : Op::kSubtract;
    node->a = std::move(left);
    node->b = concatenation();
    left = finish(std::move(node));
  }
  return left;
}

NodePtr Parser::concatenation() {
  NodePtr first = product();
  if (!is_op("~")) return first;
  NodePtr node = make(Node::Kind::kConcat, current().line);
  node->items.push_back(std::move(first));
  while (skip_op("~")) node->items.push_back(product());
  return finish(std::move(node));
}

NodePtr Parser::product() {
  static constexpr std::pair<std::string_view, Op> kProducts[] = {
      {"*", Op::kMultiply}, {"/", Op::kDivide}, {"//", Op::kFloorDivide}, {"%", Op::kModulo}};
  NodePtr left = power();
  while (true) {
    const auto* known = std::find_if(std::begin(kProducts), std::end(kProducts),
                                     [this](const auto& entry) { return is_op(entry.first); });
    if (known == std::end(kProducts)) return left;
    NodePtr node = make(Node::Kind::kBinary, next().line);
    node->op = known->second;
    node->a = std::move(left);
    node->b = power();
    left = finish(std::move(node));
  }
}

/// Jinja2 binds ** to the left.
NodePtr Parser::power() {
  NodePtr left = unary();
  while (is_op("**")) {
    NodePtr node = make(Node::Kind::kBinary, next().line);
    node->op = Op::kPower;
    node->a = std::move(left);
    node->b = unary();
    left = finish(std::move(node));
  }
  return left;
}

NodePtr Parser::unary(bool with_filters) {
  NodePtr node;
  if (is_op("-") || is_op("+")) {
    const Deeper deeper(nesting_);
    if (nesting_ > kMaxNodeDepth) fail("too many signs in a row");
    node = make(is_op("-") ? Node::Kind::kNegative : Node::Kind::kPositive, current().line);
    next();
    node->a = unary(false);
    node = finish(std::move(node));
  } else {
    node = primary();
  }
  node = postfix(std::move(node));
  return with_filters ? filters_and_tests(std::move(node)) : std::move(node);
}

}  // namespace qlora::data::jinja
