#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "data/jinja/value.h"

namespace qlora::data::jinja {

struct Node;
using NodePtr = std::unique_ptr<Node>;

enum class Op {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn
};

/// What stands in the parentheses of a call.
struct CallArguments {
  std::vector<NodePtr> positional;
  std::vector<std::pair<std::string, NodePtr>> named;
  NodePtr spread, named_spread;  // *list, **dict; or null
};

// Names that mean something in a macro's body alone; where it does not read them, a call that gives
// them is an error.
inline constexpr uint8_t kUsesCaller = 1, kUsesVarargs = 2, kUsesKwargs = 4;

/// One construct of a template. Which members are used depends on the kind.
struct Node {
  enum class Kind {
    // expressions
    kConstant,     // constant
    kName,         // name_id
    kList,         // items
    kTuple,        // items
    kDict,         // items: key, value, key, value …
    kAnd,          // a, b
    kOr,           // a, b
    kNot,          // a
    kNegative,     // a
    kPositive,     // a
    kBinary,       // op, a, b
    kCompare,      // a, then comparisons with items[i] by ops[i]
    kConcat,       // items
    kConditional,  // a where b holds, else c (or undefined)
    kAttribute,    // a, name
    kItem,         // a, b
    kSlice,        // a, then items: start, stop, step, each may be null
    kCall,         // a, call
    kFilter,       // a (null in front of a block), name, call
    kTest,         // a, name, call
    // statements
    kOutput,       // items
    kFor,          // a: target, b: iterable, c: filter or null, body, otherwise; flag: uses `loop`
    kIf,           // a, body, otherwise
    kSet,          // a: target, b: value
    kSetBlock,     // a: target, b: filters or null, body
    kMacro,        // name, name_id, parameters, body
    kCallBlock,    // a: the call, parameters, body
    kFilterBlock,  // a: filters, body
    kWith,         // items: target, value, target, value …, body
    kGeneration,   // body
    kBreak,
    kContinue,
    kNamespaceTarget,  // name_id of the namespace, name of the attribute: in targets
  };
  struct Parameter {
    int32_t name_id;
    std::string name;
    NodePtr fallback;  // or null
  };

  Kind kind;
  int line = 0;
  int depth = 1;
  Op op = Op::kAdd;
  bool flag = false;
  uint8_t special = 0;  // kMacro, kCallBlock: kUses… of the names that its body reads
  int32_t name_id = -1;
  std::string name;
  Value constant;
  NodePtr a, b, c;
  std::vector<NodePtr> items, body, otherwise;
  std::vector<Op> ops;
  std::vector<Parameter> parameters;
  std::unique_ptr<CallArguments> call;
};

/// A template, ready to render.
struct Program {
  std::string name;  // for messages
  std::vector<NodePtr> body;
  std::vector<std::string> names;  // by name_id
  bool has_generation = false;     // a {% generation %} block stands somewhere
};

}  // namespace qlora::data::jinja
