#include "tests/emulation/device/fiber.h"

#include <setjmp.h>
#include <sys/mman.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>

namespace qlora::emulation {

/// setcontext starts a fiber; from then on jumps switch, which spares two system calls a switch.
struct Fiber {
  char* stack;
  bool has_started;
  ucontext_t start;
  jmp_buf context;
};

namespace {

jmp_buf scheduler;

}  // namespace

Fiber* create_fiber(void (*body)()) {
  auto* const fiber = new Fiber{};
  void* const stack = mmap(nullptr, kFiberStackBytes, PROT_READ | PROT_WRITE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (stack == MAP_FAILED) {
    std::perror("[emulation] no memory for a thread's stack");
    std::abort();
  }
  fiber->stack = static_cast<char*>(stack);
  getcontext(&fiber->start);
  fiber->start.uc_stack.ss_sp = stack;
  fiber->start.uc_stack.ss_size = kFiberStackBytes;
  fiber->start.uc_link = nullptr;
  makecontext(&fiber->start, body, 0);
  return fiber;
}

void resume(Fiber& fiber) {
  if (_setjmp(scheduler) != 0) return;
  if (fiber.has_started) _longjmp(fiber.context, 1);
  fiber.has_started = true;
  setcontext(&fiber.start);
}

void suspend(Fiber& fiber) {
  if (_setjmp(fiber.context) == 0) _longjmp(scheduler, 1);
}

Stack stack_of(const Fiber& fiber) {
  return {fiber.stack, fiber.stack + kFiberStackBytes};
}

void happens_before(void*) {}
void happens_after(void*) {}

}  // namespace qlora::emulation
