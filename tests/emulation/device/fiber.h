#pragma once

#include <cstddef>

namespace qlora::emulation {

/// Something that runs on a stack of its own until it gives way. Two files implement it: fiber.cpp,
/// and fiber_sanitized.cpp, which tells ThreadSanitizer that each fiber is a thread.
struct Fiber;

/// A fiber that calls body() at its first resume; the body never returns.
Fiber* create_fiber(void (*body)());

/// Runs the fiber until it suspends itself.
void resume(Fiber& fiber);
void suspend(Fiber& fiber);

/// Addresses of the fiber's stack.
struct Stack {
  const char* begin;
  const char* end;
};
Stack stack_of(const Fiber& fiber);

/// What is done before `happens_before(mark)` is ordered before what is done after a later
/// `happens_after(mark)`. For ThreadSanitizer alone.
void happens_before(void* mark);
void happens_after(void* mark);

inline constexpr size_t kFiberStackBytes = size_t{128} << 10;

}  // namespace qlora::emulation
